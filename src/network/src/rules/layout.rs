//! The fixed part of the tables: sets, chains and rules.

use sys::nft::datatype::{self, concat};
use sys::nft::{
    Batch, Chain, ChainKind, Cmp, CtKey, Family, Hook, MetaKey, PayloadBase, Rule, RuleInfo, Set, Verdict,
};

const IPV4: u8 = 2;
const IPV6: u8 = 10;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const ROUTE_LOCAL: u32 = 2;
const STATE_ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const STATUS_DNAT: u32 = 1 << 5;

/// A set or map of one of the tables.
pub(super) struct SetSpec {
    pub(super) family: Family,
    pub(super) name: &'static str,
    key: &'static [u32],
    data: &'static [u32],
    of_links: bool,
}

const fn set(name: &'static str, key: &'static [u32]) -> SetSpec {
    SetSpec { family: Family::Inet, name, key, data: &[], of_links: false }
}

const fn map(name: &'static str, key: &'static [u32], data: &'static [u32]) -> SetSpec {
    SetSpec { family: Family::Inet, name, key, data, of_links: false }
}

const fn links(name: &'static str, key: &'static [u32]) -> SetSpec {
    SetSpec { family: Family::Inet, name, key, data: &[], of_links: true }
}

const fn bridged(name: &'static str, key: &'static [u32]) -> SetSpec {
    SetSpec { family: Family::Bridge, name, key, data: &[], of_links: false }
}

use datatype::{ETHER, IFNAME, IPV4 as IP4, IPV6 as IP6, PORT, PROTOCOL};

pub(super) const SETS: &[SetSpec] = &[
    map("publish4", &[PROTOCOL, IP4, PORT], &[IP4, PORT]),
    map("publish_any4", &[PROTOCOL, PORT], &[IP4, PORT]),
    map("publish6", &[PROTOCOL, IP6, PORT], &[IP6, PORT]),
    map("publish_any6", &[PROTOCOL, PORT], &[IP6, PORT]),
    set("forwarded4", &[PROTOCOL, PORT, IP4, PORT]),
    set("forwarded6", &[PROTOCOL, PORT, IP6, PORT]),
    set("pods4", &[IP4]),
    set("pods6", &[IP6]),
    set("masquerade4", &[IP4]),
    set("masquerade6", &[IP6]),
    links("links", &[IFNAME]),
    links("same_bridge", &[IFNAME]),
    links("same_pairs", &[IFNAME, IFNAME]),
    links("isolated", &[IFNAME]),
    links("internal", &[IFNAME]),
    links("guarded4", &[IFNAME]),
    links("guarded6", &[IFNAME]),
    links("routed4", &[IFNAME]),
    links("routed6", &[IFNAME]),
    links("trusted_pairs", &[IFNAME, IFNAME]),
    links("checked_sources", &[IFNAME]),
    set("open4", &[PROTOCOL, IP4, PORT]),
    set("open6", &[PROTOCOL, IP6, PORT]),
    bridged("checked_links", &[IFNAME]),
    bridged("allowed_macs", &[IFNAME, ETHER]),
];

fn length(types: &[u32]) -> u32 {
    let bytes = |t: &u32| match *t {
        IP6 | IFNAME => 16,
        ETHER => 8,
        _ => 4,
    };
    types.iter().map(bytes).sum()
}

pub(super) fn family_of(name: &str) -> Family {
    SETS.iter().find(|s| s.name == name).map_or(Family::Inet, |s| s.family)
}

/// Whether the elements of a set belong to links of the host, which outlive sandboxes.
pub(super) fn belongs_to_links(name: &str) -> bool {
    SETS.iter().any(|s| s.name == name && s.of_links)
}

fn chains() -> [(Chain<'static>, Vec<Rule>); 6] {
    let chain = |name, kind| Chain { name, kind };
    [
        (chain("martians", ChainKind::Filter(Hook::Prerouting, -300)), martians()),
        (chain("published", ChainKind::Regular), published()),
        (
            chain("prerouting", ChainKind::Nat(Hook::Prerouting, -100)),
            vec![to_published("published, from outside")],
        ),
        (
            chain("output", ChainKind::Nat(Hook::Output, -100)),
            vec![to_published("published, from this host")],
        ),
        (chain("forward", ChainKind::Filter(Hook::Forward, 0)), forward()),
        (chain("postrouting", ChainKind::Nat(Hook::Postrouting, 100)), postrouting()),
    ]
}

/// The rules of the `inet` table in the order in which the kernel lists them.
pub(super) fn expected_rules() -> Vec<RuleInfo> {
    let info = |chain: &Chain<'_>, rule: &Rule| RuleInfo {
        chain: chain.name.to_owned(),
        comment: rule.comment().to_owned(),
    };
    chains()
        .iter()
        .flat_map(|(chain, rules)| rules.iter().map(|r| info(chain, r)).collect::<Vec<_>>())
        .collect()
}

/// Deletes and creates the `inet` table.
pub(super) fn inet(batch: &mut Batch, table: &str) {
    start(batch, Family::Inet, table);
    let chains = chains();
    for (chain, _) in &chains {
        batch.chain(Family::Inet, table, *chain);
    }
    for (chain, rules) in &chains {
        for rule in rules {
            batch.rule(Family::Inet, table, chain.name, rule);
        }
    }
}

/// Deletes and creates the `bridge` table, which drops frames with a forged source address.
pub(super) fn bridge(batch: &mut Batch, table: &str) {
    start(batch, Family::Bridge, table);
    let chain = Chain { name: "spoofing", kind: ChainKind::Filter(Hook::Prerouting, -300) };
    batch.chain(Family::Bridge, table, chain);
    let rule = Rule::new("forged source address")
        .meta(MetaKey::InputName, 0)
        .lookup("checked_links", 0, false)
        .payload(PayloadBase::Link, 6, 6, 4)
        .lookup("allowed_macs", 0, true)
        .counter()
        .verdict(Verdict::Drop);
    batch.rule(Family::Bridge, table, chain.name, &rule);
}

fn start(batch: &mut Batch, family: Family, table: &str) {
    batch.table(family, table);
    batch.delete_table(family, table);
    batch.table(family, table);
    for spec in SETS.iter().filter(|s| s.family == family) {
        let data = (!spec.data.is_empty()).then(|| (concat(spec.data), length(spec.data)));
        let (key_type, key_len) = (concat(spec.key), length(spec.key));
        batch.set(family, table, Set { name: spec.name, key_type, key_len, data });
    }
}

fn of_family(rule: Rule, family: u8) -> Rule {
    rule.meta(MetaKey::Family, 0).cmp(0, Cmp::Eq, &[family])
}

fn from_loopback(rule: Rule, address_offset: u32) -> Rule {
    of_family(rule, IPV4).payload(PayloadBase::Network, address_offset, 4, 0).mask(0, &[255, 0, 0, 0]).cmp(
        0,
        Cmp::Eq,
        &[127, 0, 0, 0],
    )
}

/// What the kernel itself would drop if `route_localnet` were off.
fn martians() -> Vec<Rule> {
    let drop = |comment, offset| {
        let rule = Rule::new(comment).meta(MetaKey::InputName, 0).lookup("links", 0, false);
        from_loopback(rule, offset).counter().verdict(Verdict::Drop)
    };
    let mut loopback = [0; 16];
    loopback[..2].copy_from_slice(b"lo");
    let published = from_loopback(
        Rule::new("a port of 127.0.0.0/8 from outside").meta(MetaKey::InputName, 0).cmp(
            0,
            Cmp::Neq,
            &loopback,
        ),
        16,
    );
    let published = published
        .meta(MetaKey::L4Proto, 0)
        .payload(PayloadBase::Network, 16, 4, 1)
        .payload(PayloadBase::Transport, 2, 2, 2)
        .map("publish4", 0, 8);
    vec![
        drop("to 127.0.0.0/8 from a sandbox", 16),
        drop("from 127.0.0.0/8 in a sandbox", 12),
        published.counter().verdict(Verdict::Drop),
        forged(of_family(Rule::new("forged IPv4 source in a user network"), IPV4)),
        // Duplicate address detection and router solicitation have no source that could be answered.
        forged(
            of_family(Rule::new("forged IPv6 source in a user network"), IPV6).meta(MetaKey::L4Proto, 0).cmp(
                0,
                Cmp::Neq,
                &[ICMPV6],
            ),
        ),
    ]
}

/// Goes on for packets of user networks whose source is not reached by the link that they came from.
fn forged(rule: Rule) -> Rule {
    rule.meta(MetaKey::InputName, 0)
        .lookup("checked_sources", 0, false)
        .reverse_path(0)
        .cmp(0, Cmp::Eq, &[0; 4])
        .counter()
        .verdict(Verdict::Drop)
}

fn to_published(comment: &'static str) -> Rule {
    Rule::new(comment)
        .destination_type(0)
        .cmp(0, Cmp::Eq, &ROUTE_LOCAL.to_ne_bytes())
        .verdict(Verdict::Jump("published"))
}

fn published() -> Vec<Rule> {
    let port = |rule: Rule, register| rule.payload(PayloadBase::Transport, 2, 2, register);
    let v4 = of_family(Rule::new("one address, IPv4"), IPV4).meta(MetaKey::L4Proto, 0).payload(
        PayloadBase::Network,
        16,
        4,
        1,
    );
    let any4 = of_family(Rule::new("all addresses, IPv4"), IPV4).meta(MetaKey::L4Proto, 0);
    let v6 = of_family(Rule::new("one address, IPv6"), IPV6).meta(MetaKey::L4Proto, 0).payload(
        PayloadBase::Network,
        24,
        16,
        1,
    );
    // There is no route_localnet for IPv6: traffic to ::1 cannot leave the host and must stay what it is.
    let any6 = of_family(Rule::new("all addresses, IPv6"), IPV6)
        .payload(PayloadBase::Network, 24, 16, 0)
        .cmp(0, Cmp::Neq, &std::net::Ipv6Addr::LOCALHOST.octets())
        .meta(MetaKey::L4Proto, 0);
    vec![
        port(v4, 2).map("publish4", 0, 8).dnat(u32::from(IPV4), 8, 9),
        port(any4, 1).map("publish_any4", 0, 8).dnat(u32::from(IPV4), 8, 9),
        port(v6, 5).map("publish6", 0, 8).dnat(u32::from(IPV6), 8, 12),
        port(any6, 1).map("publish_any6", 0, 8).dnat(u32::from(IPV6), 8, 12),
    ]
}

/// Goes on only for connections that one of our port maps redirected to where the packet goes.
fn redirected(comment: &'static str, family: u8) -> Rule {
    let (offset, length, set) = if family == IPV4 { (16, 4, "forwarded4") } else { (24, 16, "forwarded6") };
    of_family(Rule::new(comment), family)
        .ct(CtKey::Status, 0)
        .mask(0, &STATUS_DNAT.to_ne_bytes())
        .cmp(0, Cmp::Neq, &[0; 4])
        .meta(MetaKey::L4Proto, 0)
        .ct(CtKey::OriginalDestinationPort, 1)
        .payload(PayloadBase::Network, offset, length, 2)
        .payload(PayloadBase::Transport, 2, 2, 2 + length / 4)
        .lookup(set, 0, false)
}

/// Goes on if the packet does not stay on its bridge.
fn other_pair(rule: Rule) -> Rule {
    rule.meta(MetaKey::InputName, 0).meta(MetaKey::OutputName, 4).lookup("same_pairs", 0, true)
}

fn open(comment: &'static str, family: u8) -> Rule {
    let (offset, length, set) = if family == IPV4 { (16, 4, "open4") } else { (24, 16, "open6") };
    of_family(Rule::new(comment), family)
        .meta(MetaKey::L4Proto, 0)
        .payload(PayloadBase::Network, offset, length, 1)
        .payload(PayloadBase::Transport, 2, 2, 1 + length / 4)
        .lookup(set, 0, false)
}

fn pings(comment: &'static str, set: &str, protocol: u8) -> Rule {
    Rule::new(comment)
        .meta(MetaKey::L4Proto, 0)
        .cmp(0, Cmp::Eq, &[protocol])
        .meta(MetaKey::OutputName, 0)
        .lookup(set, 0, false)
}

fn guarded(comment: &'static str, family: u8, set: &str) -> Rule {
    let to = of_family(Rule::new(comment), family).meta(MetaKey::OutputName, 0).lookup(set, 0, false);
    other_pair(to).counter().verdict(Verdict::Drop)
}

fn forward() -> Vec<Rule> {
    let known = Rule::new("known connections")
        .ct(CtKey::State, 0)
        .mask(0, &STATE_ESTABLISHED_OR_RELATED.to_ne_bytes())
        .cmp(0, Cmp::Neq, &[0; 4])
        .verdict(Verdict::Accept);
    let from_other = |comment, set| {
        Rule::new(comment)
            .meta(MetaKey::OutputName, 4)
            .lookup(set, 4, false)
            .meta(MetaKey::InputName, 0)
            .lookup("links", 0, false)
    };
    let [leaves, enters] = [
        ("out of an internal network", MetaKey::InputName),
        ("into an internal network", MetaKey::OutputName),
    ]
    .map(|(comment, key)| {
        other_pair(Rule::new(comment).meta(key, 0).lookup("internal", 0, false))
            .counter()
            .verdict(Verdict::Drop)
    });
    vec![
        leaves,
        enters,
        known,
        redirected("published ports, IPv4", IPV4).verdict(Verdict::Accept),
        redirected("published ports, IPv6", IPV6).verdict(Verdict::Accept),
        open("open ports, IPv4", IPV4).verdict(Verdict::Accept),
        open("open ports, IPv6", IPV6).verdict(Verdict::Accept),
        pings("pings to routed networks, IPv4", "routed4", ICMP).verdict(Verdict::Accept),
        pings("pings to routed networks, IPv6", "routed6", ICMPV6).verdict(Verdict::Accept),
        Rule::new("trusted links")
            .meta(MetaKey::InputName, 0)
            .meta(MetaKey::OutputName, 4)
            .lookup("trusted_pairs", 0, false)
            .verdict(Verdict::Accept),
        guarded("not published, IPv4", IPV4, "guarded4"),
        guarded("not published, IPv6", IPV6, "guarded6"),
        from_other("another bridge", "same_bridge")
            .lookup("same_pairs", 0, true)
            .counter()
            .verdict(Verdict::Drop),
        from_other("isolated bridge", "isolated").counter().verdict(Verdict::Drop),
    ]
}

fn postrouting() -> Vec<Rule> {
    let elsewhere = |comment, family, (offset, length), pods| {
        of_family(Rule::new(comment), family)
            .payload(PayloadBase::Network, offset, length, 0)
            .lookup(pods, 0, false)
            .meta(MetaKey::OutputName, 0)
            .lookup("links", 0, true)
    };
    vec![
        from_loopback(redirected("published, from 127.0.0.0/8", IPV4), 12).masquerade(),
        redirected("hairpin, IPv4", IPV4)
            .payload(PayloadBase::Network, 12, 4, 0)
            .lookup("pods4", 0, false)
            .masquerade(),
        redirected("hairpin, IPv6", IPV6)
            .payload(PayloadBase::Network, 8, 16, 0)
            .lookup("pods6", 0, false)
            .masquerade(),
        elsewhere("to elsewhere, IPv4", IPV4, (12, 4), "masquerade4")
            .payload(PayloadBase::Network, 16, 4, 0)
            .mask(0, &[0xf0, 0, 0, 0])
            .cmp(0, Cmp::Neq, &[0xe0, 0, 0, 0])
            .masquerade(),
        elsewhere("to elsewhere, IPv6", IPV6, (8, 16), "masquerade6")
            .payload(PayloadBase::Network, 24, 1, 0)
            .cmp(0, Cmp::Neq, &[0xff])
            .masquerade(),
    ]
}
