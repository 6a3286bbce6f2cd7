//! A transaction in the making.

use crate::netlink::wire::Writer;

use super::SUBSYSTEM;
use super::rule::Rule;

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
pub(super) const DELSETELEM: u16 = 14;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const SET_MAP: u32 = 8;
/// Elements of one message; an attribute holds at most 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 250;
const MAX_COMMENT_LEN: usize = 120;

/// nft's own numbers of data types, by which `nft list` prints keys. The kernel ignores them.
pub mod datatype {
    /// IPv4 address.
    pub const IPV4: u32 = 7;
    /// IPv6 address.
    pub const IPV6: u32 = 8;
    /// Hardware address.
    pub const ETHER: u32 = 9;
    /// Transport protocol.
    pub const PROTOCOL: u32 = 12;
    /// Port.
    pub const PORT: u32 = 13;
    /// Interface name.
    pub const IFNAME: u32 = 41;

    /// A concatenation.
    pub fn concat(parts: &[u32]) -> u32 {
        parts.iter().fold(0, |all, part| all << 6 | part)
    }
}

/// Address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// Bridged frames.
    Bridge = 7,
}

/// Where a base chain sees packets.
#[derive(Debug, Clone, Copy)]
pub enum Hook {
    /// On arrival.
    Prerouting = 0,
    /// Between two interfaces.
    Forward = 2,
    /// From this host.
    Output = 3,
    /// On departure.
    Postrouting = 4,
}

/// What a base chain is for.
#[derive(Debug, Clone, Copy)]
pub enum ChainKind {
    /// Called by other chains.
    Regular,
    /// Filters at a hook with a priority.
    Filter(Hook, i32),
    /// Translates addresses at a hook with a priority.
    Nat(Hook, i32),
}

/// A chain.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a> {
    /// Name.
    pub name: &'a str,
    /// Purpose.
    pub kind: ChainKind,
}

/// A set, or a map if it has data.
#[derive(Debug, Clone, Copy)]
pub struct Set<'a> {
    /// Name.
    pub name: &'a str,
    /// Type of the key, see [`datatype`].
    pub key_type: u32,
    /// Bytes of the key.
    pub key_len: u32,
    /// Type and bytes of the data.
    pub data: Option<(u32, u32)>,
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element {
    /// The key, every field padded to four bytes.
    pub key: Vec<u8>,
    /// The data of a map's element.
    pub data: Option<Vec<u8>>,
    /// For people; usually the owner.
    pub comment: String,
}

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) object: String,
    pub(super) kind: u16,
    flags: u16,
    family: Family,
    body: Vec<u8>,
}

/// A transaction; see the module.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) operations: Vec<Operation>,
    sets: u32,
}

impl Batch {
    /// Nothing to do yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Creates a table, unless it exists.
    pub fn table(&mut self, family: Family, table: &str) {
        self.add("create table", table, (NEWTABLE, CREATE), family, |w| {
            w.attr_str(1, table);
            w.attr_be32(2, 0);
        });
    }

    /// Deletes a table, which must exist, with everything in it.
    pub fn delete_table(&mut self, family: Family, table: &str) {
        self.add("delete table", table, (DELTABLE, 0), family, |w| w.attr_str(1, table));
    }

    /// Creates a chain whose policy is accept.
    pub fn chain(&mut self, family: Family, table: &str, chain: Chain<'_>) {
        self.add("create chain", chain.name, (NEWCHAIN, CREATE), family, |w| {
            w.attr_str(1, table);
            w.attr_str(3, chain.name);
            let (kind, hook, priority) = match chain.kind {
                ChainKind::Regular => return,
                ChainKind::Filter(hook, priority) => ("filter", hook, priority),
                ChainKind::Nat(hook, priority) => ("nat", hook, priority),
            };
            w.nest(4, |w| {
                w.attr_be32(1, hook as u32);
                w.attr_be32(2, priority.cast_unsigned());
            });
            w.attr_be32(5, 1);
            w.attr_str(7, kind);
        });
    }

    /// Creates a set or map.
    pub fn set(&mut self, family: Family, table: &str, set: Set<'_>) {
        self.sets += 1;
        let id = self.sets;
        self.add("create set", set.name, (NEWSET, CREATE), family, |w| {
            w.attr_str(1, table);
            w.attr_str(2, set.name);
            w.attr_be32(3, if set.data.is_some() { SET_MAP } else { 0 });
            w.attr_be32(4, set.key_type);
            w.attr_be32(5, set.key_len);
            if let Some((data_type, data_len)) = set.data {
                w.attr_be32(6, data_type);
                w.attr_be32(7, data_len);
            }
            w.attr_be32(10, id);
        });
    }

    /// Appends a rule to a chain.
    pub fn rule(&mut self, family: Family, table: &str, chain: &str, rule: &Rule) {
        self.add("add rule", rule.comment, (NEWRULE, CREATE | APPEND), family, |w| {
            w.attr_str(1, table);
            w.attr_str(2, chain);
            w.nest(4, |w| w.put(rule.expressions.bytes()));
            w.attr(7, &comment_data(rule.comment));
        });
    }

    /// Adds elements. Those that exist with the same data stay; other data is an error (`EBUSY`).
    pub fn add_elements(&mut self, family: Family, table: &str, set: &str, elements: &[Element]) {
        for part in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.add("add elements to", set, (NEWSETELEM, CREATE), family, |w| {
                element_list(w, table, set, part, true);
            });
        }
    }

    /// Deletes elements, one message each, so that missing ones can be told apart.
    pub fn delete_elements(&mut self, family: Family, table: &str, set: &str, elements: &[Element]) {
        for element in elements {
            self.add("delete element of", set, (DELSETELEM, 0), family, |w| {
                element_list(w, table, set, std::slice::from_ref(element), false);
            });
        }
    }

    fn add(
        &mut self,
        name: &'static str,
        object: &str,
        (kind, flags): (u16, u16),
        family: Family,
        body: impl FnOnce(&mut Writer),
    ) {
        let mut writer = Writer::default();
        body(&mut writer);
        let body = writer.bytes().to_vec();
        self.operations.push(Operation { name, object: object.to_owned(), kind, flags, family, body });
    }

    /// The whole transaction. Only the last operation asks for an acknowledgement; failures are reported anyway.
    pub(super) fn datagram(&self, first_seq: u32) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.message(BATCH_BEGIN, REQUEST, first_seq, |w| header(w, 0, SUBSYSTEM));
        let mut seq = first_seq;
        for (index, operation) in self.operations.iter().enumerate() {
            seq = seq.wrapping_add(1);
            let ack = if index + 1 == self.operations.len() { ACK } else { 0 };
            let kind = SUBSYSTEM << 8 | operation.kind;
            writer.message(kind, REQUEST | ack | operation.flags, seq, |w| {
                header(w, operation.family as u8, 0);
                w.put(&operation.body);
            });
        }
        writer.message(BATCH_END, REQUEST, seq.wrapping_add(1), |w| header(w, 0, SUBSYSTEM));
        writer.bytes().to_vec()
    }
}

/// `struct nfgenmsg`.
pub(super) fn header(w: &mut Writer, family: u8, resource: u16) {
    w.put(&[family, 0]);
    w.put(&resource.to_be_bytes());
}

fn element_list(w: &mut Writer, table: &str, set: &str, elements: &[Element], with_data: bool) {
    w.attr_str(1, table);
    w.attr_str(2, set);
    w.nest(3, |w| {
        for element in elements {
            w.nest(1, |w| {
                w.nest(1, |w| w.attr(1, &element.key));
                if let Some(data) = element.data.as_ref().filter(|_| with_data) {
                    w.nest(2, |w| w.attr(1, data));
                }
                if with_data && !element.comment.is_empty() {
                    w.attr(6, &comment_data(&element.comment));
                }
            });
        }
    });
}

/// A comment as nft stores it in user data: type 0, length, text with a final zero byte.
fn comment_data(text: &str) -> Vec<u8> {
    let mut end = text.len().min(MAX_COMMENT_LEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut data = vec![0, u8::try_from(end + 1).unwrap_or(u8::MAX)];
    data.extend_from_slice(&text.as_bytes()[..end]);
    data.push(0);
    data
}

/// The comment in user data.
pub(super) fn read_comment(data: &[u8]) -> String {
    match data {
        [0, length, rest @ ..] => {
            let text = rest.get(..usize::from(*length)).unwrap_or(rest);
            crate::netlink::wire::read_text(text)
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_cut_at_character_boundaries() {
        for text in ["", "sandbox", &"é".repeat(100)] {
            let back = read_comment(&comment_data(text));
            assert!(text.starts_with(&back) && back.len() <= MAX_COMMENT_LEN, "{text}");
        }
    }
}
