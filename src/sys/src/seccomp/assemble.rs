//! An assembler for classic BPF that works from the last instruction to the first.
//!
//! Filters jump forward only, so emitting backwards makes every target known when a jump to it is written.
//! Conditional jumps reach 255 instructions; a farther target gets a trampoline, or, when it is a return,
//! a second copy of it.

use std::collections::HashMap;

/// Offset of the system call number in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
/// Offset of the architecture token.
pub(super) const TOKEN: u32 = 4;

/// Offset of the low half of an argument on a little-endian machine.
pub(super) const fn argument_low(index: u32) -> u32 {
    16 + 8 * index
}

/// Offset of the high half of an argument on a little-endian machine.
pub(super) const fn argument_high(index: u32) -> u32 {
    argument_low(index) + 4
}

const LOAD_ABSOLUTE: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;

/// Conditional jumps against a constant.
#[derive(Debug, Clone, Copy)]
pub(super) enum If {
    Equal = 0x15,
    Greater = 0x25,
    GreaterOrEqual = 0x35,
}

/// Where an instruction stands, counted from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At(usize);

/// Instructions so far, the last one first.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<u64>,
    returns: HashMap<u32, At>,
}

impl Assembler {
    /// A return of `value`, shared with earlier ones.
    pub(super) fn ret(&mut self, value: u32) -> At {
        if let Some(&at) = self.returns.get(&value) {
            return at;
        }
        self.new_return(value)
    }

    /// Loads a word of `struct seccomp_data`, then runs on into what was emitted last.
    pub(super) fn load(&mut self, offset: u32) -> At {
        self.push(LOAD_ABSOLUTE, 0, 0, offset)
    }

    /// Masks the accumulator, then runs on into what was emitted last.
    pub(super) fn and(&mut self, mask: u32) -> At {
        self.push(AND, 0, 0, mask)
    }

    /// Goes to `yes` or `no` by the accumulator's relation to `value`.
    pub(super) fn branch(&mut self, test: If, value: u32, yes: At, no: At) -> At {
        let yes = self.within_reach(yes, 1);
        let no = self.within_reach(no, 0);
        let (jt, jf) = (self.distance(yes), self.distance(no));
        self.push(test as u16, u8::try_from(jt).unwrap_or(0), u8::try_from(jf).unwrap_or(0), value)
    }

    /// The instructions in the order they run.
    pub(super) fn finish(self) -> Vec<u64> {
        self.code.into_iter().rev().collect()
    }

    /// How many instructions there are.
    pub(super) fn len(&self) -> usize {
        self.code.len()
    }

    fn new_return(&mut self, value: u32) -> At {
        let at = self.push(RETURN, 0, 0, value);
        self.returns.insert(value, at);
        at
    }

    /// Makes `target` reachable by a conditional jump that comes after up to `spare` more instructions.
    fn within_reach(&mut self, target: At, spare: usize) -> At {
        if self.distance(target) + spare <= usize::from(u8::MAX) {
            return target;
        }
        let instruction = self.code[target.0];
        if instruction & 0xffff == u64::from(RETURN) {
            let value = u32::try_from(instruction >> 32).unwrap_or_default();
            let near = self.returns.get(&value).copied().unwrap_or(target);
            if self.distance(near) + spare <= usize::from(u8::MAX) {
                return near;
            }
            return self.new_return(value);
        }
        let distance = u32::try_from(self.distance(target)).unwrap_or(u32::MAX);
        self.push(JUMP, 0, 0, distance)
    }

    /// Instructions that a jump emitted now would skip to get to `target`.
    fn distance(&self, target: At) -> usize {
        self.code.len() - target.0 - 1
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> At {
        let word = u64::from(code) | u64::from(jt) << 16 | u64::from(jf) << 24 | u64::from(k) << 32;
        self.code.push(word);
        At(self.code.len() - 1)
    }
}
