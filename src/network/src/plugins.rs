//! The plugins that run in this process.

pub(crate) mod bridge;
pub(crate) mod firewall;
pub(crate) mod host_local;
pub(crate) mod macvlan;
pub(crate) mod portmap;

/// A built-in plugin with its checked configuration.
#[derive(Debug, Clone)]
pub(crate) enum Builtin {
    /// Connects the sandbox to a bridge of the host.
    Bridge(Box<bridge::Conf>),
    /// Forwards host ports.
    Portmap(portmap::Conf),
    /// Decides what may be forwarded to the sandbox.
    Firewall(firewall::Conf),
    /// Gives the sandbox an interface on a link of the host.
    Macvlan(Box<macvlan::Conf>),
    /// Sets the loopback interface up.
    Loopback,
}

impl Builtin {
    /// What is wrong with the configuration beyond its syntax.
    pub(crate) fn validate(&self) -> Result<(), String> {
        match self {
            Self::Bridge(conf) => conf.validate(),
            Self::Portmap(conf) => conf.validate(),
            Self::Firewall(conf) => conf.validate(),
            Self::Macvlan(conf) => conf.validate(),
            Self::Loopback => Ok(()),
        }
    }
}
