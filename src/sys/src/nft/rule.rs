//! Rules as sequences of expressions.
//!
//! Registers are 32 bits wide and numbered from 0; a value longer than that fills the following ones.

use crate::netlink::wire::Writer;

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const FIRST_REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
const NAT_DNAT: u32 = 1;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_DADDR: u32 = 2;
const FIB_RESULT_OIF: u32 = 1;
const FIB_SADDR: u32 = 1;
const FIB_IIF: u32 = 1 << 3;
const RANDOM_FULLY: u32 = 1 << 4;

/// What `meta` loads.
#[derive(Debug, Clone, Copy)]
pub enum MetaKey {
    /// Name of the incoming interface, 16 bytes.
    InputName = 6,
    /// Name of the outgoing interface, 16 bytes.
    OutputName = 7,
    /// `NFPROTO_`, one byte.
    Family = 15,
    /// Transport protocol, one byte.
    L4Proto = 16,
}

/// What `ct` loads.
#[derive(Debug, Clone, Copy)]
pub enum CtKey {
    /// State bits.
    State = 0,
    /// Status bits.
    Status = 2,
    /// Original destination port.
    OriginalDestinationPort = 12,
}

/// Where `payload` reads from.
#[derive(Debug, Clone, Copy)]
pub enum PayloadBase {
    /// Link layer header.
    Link = 0,
    /// Network header.
    Network = 1,
    /// Transport header.
    Transport = 2,
}

/// Comparison.
#[derive(Debug, Clone, Copy)]
pub enum Cmp {
    /// Equal.
    Eq = 0,
    /// Not equal.
    Neq = 1,
}

/// Where the packet goes.
#[derive(Debug, Clone, Copy)]
pub enum Verdict<'a> {
    /// Accepted by this chain.
    Accept,
    /// Dropped.
    Drop,
    /// On to another chain, and back.
    Jump(&'a str),
}

/// A rule in the making.
#[derive(Debug)]
pub struct Rule {
    pub(super) expressions: Writer,
    pub(super) comment: &'static str,
}

impl Rule {
    /// A rule without expressions; the comment identifies it.
    pub fn new(comment: &'static str) -> Self {
        Self { expressions: Writer::default(), comment }
    }

    /// The comment.
    pub fn comment(&self) -> &'static str {
        self.comment
    }

    /// Loads meta data.
    #[must_use]
    pub fn meta(self, key: MetaKey, register: u32) -> Self {
        self.expression("meta", |w| {
            w.attr_be32(1, FIRST_REGISTER + register);
            w.attr_be32(2, key as u32);
        })
    }

    /// Loads connection tracking data; keys with a direction are about the original one.
    #[must_use]
    pub fn ct(self, key: CtKey, register: u32) -> Self {
        self.expression("ct", |w| {
            w.attr_be32(1, FIRST_REGISTER + register);
            w.attr_be32(2, key as u32);
            if matches!(key, CtKey::OriginalDestinationPort) {
                w.attr(3, &[0]);
            }
        })
    }

    /// Loads a part of the packet.
    #[must_use]
    pub fn payload(self, base: PayloadBase, offset: u32, length: u32, register: u32) -> Self {
        self.expression("payload", |w| {
            w.attr_be32(1, FIRST_REGISTER + register);
            w.attr_be32(2, base as u32);
            w.attr_be32(3, offset);
            w.attr_be32(4, length);
        })
    }

    /// Loads the type (`RTN_`) of the destination address.
    #[must_use]
    pub fn destination_type(self, register: u32) -> Self {
        self.expression("fib", |w| {
            w.attr_be32(1, FIRST_REGISTER + register);
            w.attr_be32(2, FIB_RESULT_ADDRTYPE);
            w.attr_be32(3, FIB_DADDR);
        })
    }

    /// Loads the index of the link by which an answer to the source would leave, if that is where the packet came from,
    /// and 0 otherwise.
    #[must_use]
    pub fn reverse_path(self, register: u32) -> Self {
        self.expression("fib", |w| {
            w.attr_be32(1, FIRST_REGISTER + register);
            w.attr_be32(2, FIB_RESULT_OIF);
            w.attr_be32(3, FIB_SADDR | FIB_IIF);
        })
    }

    /// Loads a constant.
    #[must_use]
    pub fn constant(self, register: u32, value: &[u8]) -> Self {
        self.expression("immediate", |w| {
            w.attr_be32(1, FIRST_REGISTER + register);
            w.nest(2, |w| w.attr(DATA_VALUE, value));
        })
    }

    /// Goes on only if the register compares to the value.
    #[must_use]
    pub fn cmp(self, register: u32, op: Cmp, value: &[u8]) -> Self {
        self.expression("cmp", |w| {
            w.attr_be32(1, FIRST_REGISTER + register);
            w.attr_be32(2, op as u32);
            w.nest(3, |w| w.attr(DATA_VALUE, value));
        })
    }

    /// Masks a register in place.
    #[must_use]
    pub fn mask(self, register: u32, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        self.expression("bitwise", |w| {
            w.attr_be32(1, FIRST_REGISTER + register);
            w.attr_be32(2, FIRST_REGISTER + register);
            w.attr_be32(3, length);
            w.nest(4, |w| w.attr(DATA_VALUE, mask));
            w.nest(5, |w| w.attr(DATA_VALUE, &vec![0; mask.len()]));
        })
    }

    /// Goes on only if the set has the value of the registers, or, `inverted`, if it has not.
    #[must_use]
    pub fn lookup(self, set: &str, register: u32, inverted: bool) -> Self {
        self.expression("lookup", |w| {
            w.attr_str(1, set);
            w.attr_be32(2, FIRST_REGISTER + register);
            if inverted {
                w.attr_be32(5, 1);
            }
        })
    }

    /// Replaces the value of the registers by what the map has for it; goes on only if it has.
    #[must_use]
    pub fn map(self, map: &str, register: u32, to_register: u32) -> Self {
        self.expression("lookup", |w| {
            w.attr_str(1, map);
            w.attr_be32(2, FIRST_REGISTER + register);
            w.attr_be32(3, FIRST_REGISTER + to_register);
        })
    }

    /// Redirects to the address and port in the registers. `family` is `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    #[must_use]
    pub fn dnat(self, family: u32, address_register: u32, port_register: u32) -> Self {
        self.expression("nat", |w| {
            w.attr_be32(1, NAT_DNAT);
            w.attr_be32(2, family);
            w.attr_be32(3, FIRST_REGISTER + address_register);
            w.attr_be32(5, FIRST_REGISTER + port_register);
        })
    }

    /// Replaces the source by the address of the outgoing interface, with a random port.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.expression("masq", |w| w.attr_be32(1, RANDOM_FULLY))
    }

    /// Counts.
    #[must_use]
    pub fn counter(self) -> Self {
        self.expression("counter", |_| {})
    }

    /// Ends with a verdict.
    #[must_use]
    pub fn verdict(self, verdict: Verdict<'_>) -> Self {
        let (code, chain): (i32, Option<&str>) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
        };
        self.expression("immediate", |w| {
            w.attr_be32(1, VERDICT_REGISTER);
            w.nest(2, |w| {
                w.nest(DATA_VERDICT, |w| {
                    w.attr_be32(1, code.cast_unsigned());
                    if let Some(chain) = chain {
                        w.attr_str(2, chain);
                    }
                });
            });
        })
    }

    fn expression(mut self, name: &str, data: impl FnOnce(&mut Writer)) -> Self {
        self.expressions.nest(LIST_ELEM, |w| {
            w.attr_str(EXPR_NAME, name);
            w.nest(EXPR_DATA, data);
        });
        self
    }
}
