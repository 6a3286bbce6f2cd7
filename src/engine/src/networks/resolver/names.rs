//! Names that containers on user networks have for each other.

use std::net::IpAddr;

use oci::SandboxId;

use super::super::registry::{Member, Networks};

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its addresses, of both families.
    Addresses(Vec<IpAddr>),
    /// Nobody here has it.
    Nobody,
}

impl Networks {
    /// The addresses of a name, as a sandbox sees it: on each of its networks in order, first by its own links, then by
    /// the names of those who are there; `NAME.NETWORK` means that network. `name` is in lower case.
    pub(crate) fn look_up(&self, sandbox: &SandboxId, name: &str) -> Found {
        for (definition, own) in self.of_sandbox(sandbox) {
            if !definition.has_names() {
                continue;
            }
            let suffix = format!(".{}", definition.config.name.to_lowercase());
            let members = self.members(&definition.id);
            for candidate in [Some(name), name.strip_suffix(&suffix)].into_iter().flatten() {
                let linked =
                    own.endpoint.config.links.iter().find(|(_, a)| a.eq_ignore_ascii_case(candidate));
                let found: Vec<&Member> = match linked {
                    Some((target, _)) => members.iter().filter(|m| is_target(m, target)).collect(),
                    None => members.iter().filter(|m| has_name(m, candidate)).collect(),
                };
                if !found.is_empty() {
                    let addresses = found.iter().flat_map(|m| m.endpoint.ipv4.iter().chain(&m.endpoint.ipv6));
                    return Found::Addresses(addresses.map(|net| net.addr()).collect());
                }
            }
        }
        Found::Nobody
    }

    /// The name of an address on one of the networks of a sandbox.
    pub(crate) fn name_of(&self, sandbox: &SandboxId, ip: IpAddr) -> Option<String> {
        self.of_sandbox(sandbox).iter().filter(|(definition, _)| definition.has_names()).find_map(
            |(definition, _)| {
                let has =
                    |m: &Member| m.endpoint.ipv4.iter().chain(&m.endpoint.ipv6).any(|net| net.addr() == ip);
                let member = self.members(&definition.id).into_iter().find(has)?;
                let name = member.endpoint.dns_names.first()?;
                Some(format!("{name}.{}", definition.config.name))
            },
        )
    }

    /// Whether questions about other names may be handed on: not from a sandbox that is on internal networks only.
    pub(crate) fn may_forward(&self, sandbox: &SandboxId) -> bool {
        self.of_sandbox(sandbox).iter().any(|(definition, _)| !definition.config.internal)
    }
}

fn has_name(member: &Member, name: &str) -> bool {
    member.endpoint.dns_names.iter().any(|n| n.eq_ignore_ascii_case(name))
}

fn is_target(member: &Member, target: &str) -> bool {
    member.container_name == target || (target.len() >= 12 && member.container_id.starts_with(target))
}
