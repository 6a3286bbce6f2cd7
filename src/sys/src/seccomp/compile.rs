//! Verdicts to instructions: one balanced tree over ranges of numbers for each architecture token.

use std::collections::BTreeMap;

use oci_spec::runtime::LinuxSeccomp;

use super::Error;
use super::arch::{Arch, X32_BIT};
use super::assemble::{self, Assembler, At, If, argument_high, argument_low};
use super::program::{MAX_INSTRUCTIONS, Program};
use super::rules::{Comparison, KILL_PROCESS, Policy, Relation, UNKNOWN_CALL, Verdict, Verdicts};

/// Private system calls of 32-bit Arm start here.
const ARM_PRIVATE: u32 = 0xf_0000;

/// Compiles `profile` for this machine.
///
/// # Errors
/// A field without meaning, a notification that could never be answered, a program the kernel would refuse.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, Error> {
    compile_for(profile, Arch::native().ok_or(Error::Architecture)?)
}

/// Compiles `profile` for a kernel whose native ABI is `native`.
///
/// # Errors
/// As for [`compile`].
pub fn compile_for(profile: &LinuxSeccomp, native: Arch) -> Result<Program, Error> {
    let policy = Policy::new(profile, native)?;
    let mut trees: BTreeMap<u32, Vec<Segment<'_>>> = BTreeMap::new();
    for arch in policy.arches.keys() {
        trees.entry(arch.audit_token()).or_insert_with(|| segments(&policy, arch.audit_token()));
    }
    let mut out = Assembler::default();
    // Emitted last runs first: the native architecture is looked for first.
    let first = native.audit_token();
    let order = trees.keys().copied().filter(|&token| token != first).chain([first]);
    let mut entries = Vec::new();
    for token in order {
        tree(&mut out, &trees[&token]);
        entries.push((token, out.load(assemble::NUMBER)));
    }
    let mut next = out.ret(KILL_PROCESS);
    for (token, entry) in entries {
        next = out.branch(If::Equal, token, entry, next);
    }
    out.load(assemble::TOKEN);
    if out.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong(out.len()));
    }
    Ok(Program { code: out.finish().into(), flags: policy.flags, ignored: policy.ignored.into() })
}

/// Numbers from `start` to the next segment share a fate.
#[derive(Debug, Clone, Copy)]
struct Segment<'a> {
    start: u32,
    fate: Fate<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate<'a> {
    Return(u32),
    Decide(&'a Verdict),
}

/// The whole space of numbers under `token`, in order, neighbours merged.
fn segments(policy: &Policy, token: u32) -> Vec<Segment<'_>> {
    let mut all = Vec::new();
    if token == Arch::X86_64.audit_token() {
        region(&mut all, policy, policy.arches.get(&Arch::X86_64), 0, X32_BIT);
        region(&mut all, policy, policy.arches.get(&Arch::X32), X32_BIT, u32::MAX);
        // A tracer skips a call by setting its number to -1; that is no x32 call.
        all.push(Segment { start: u32::MAX, fate: Fate::Return(policy.default) });
    } else if token == Arch::Arm.audit_token() {
        let verdicts = policy.arches.get(&Arch::Arm);
        region(&mut all, policy, verdicts, 0, ARM_PRIVATE);
        region(&mut all, policy, verdicts, ARM_PRIVATE, u32::MAX);
    } else {
        let verdicts = policy.arches.iter().find(|(arch, _)| arch.audit_token() == token).map(|(_, v)| v);
        region(&mut all, policy, verdicts, 0, u32::MAX);
    }
    all.dedup_by(|later, earlier| later.fate == earlier.fate);
    all
}

/// Appends the numbers from `from` up to, but not including, `to`.
fn region<'a>(
    all: &mut Vec<Segment<'a>>,
    policy: &Policy,
    verdicts: Option<&'a Verdicts>,
    from: u32,
    to: u32,
) {
    let Some(verdicts) = verdicts else {
        all.push(Segment { start: from, fate: Fate::Return(KILL_PROCESS) });
        return;
    };
    let mut at = from;
    for (&nr, verdict) in verdicts.range(from..to) {
        if at < nr {
            all.push(Segment { start: at, fate: Fate::Return(policy.default) });
        }
        let fate = match verdict.tests.as_slice() {
            [] => Fate::Return(verdict.otherwise),
            _ => Fate::Decide(verdict),
        };
        all.push(Segment { start: nr, fate });
        at = nr + 1;
    }
    if at < to {
        let newer = policy.softens_unknown() && at > from && from != ARM_PRIVATE;
        let value = if newer { UNKNOWN_CALL } else { policy.default };
        all.push(Segment { start: at, fate: Fate::Return(value) });
    }
}

fn tree(out: &mut Assembler, segments: &[Segment<'_>]) -> At {
    match segments {
        [] => out.ret(KILL_PROCESS),
        [only] => match only.fate {
            Fate::Return(value) => out.ret(value),
            Fate::Decide(verdict) => decide(out, verdict),
        },
        _ => {
            let (low, high) = segments.split_at(segments.len() / 2);
            let start = high[0].start;
            let high = tree(out, high);
            let low = tree(out, low);
            out.branch(If::GreaterOrEqual, start, high, low)
        }
    }
}

fn decide(out: &mut Assembler, verdict: &Verdict) -> At {
    let mut next = out.ret(verdict.otherwise);
    for test in verdict.tests.iter().rev() {
        let miss = next;
        let mut hit = out.ret(test.then);
        for comparison in test.all.iter().rev() {
            hit = compare(out, comparison, hit, miss);
        }
        next = hit;
    }
    next
}

/// Splits a constant into its low and high halves.
fn halves(value: u64) -> (u32, u32) {
    let low = u32::try_from(value & 0xffff_ffff).unwrap_or_default();
    let high = u32::try_from(value >> 32).unwrap_or_default();
    (low, high)
}

fn compare(out: &mut Assembler, comparison: &Comparison, yes: At, no: At) -> At {
    match comparison.relation {
        Relation::Equal(value) => equal(out, comparison, value, yes, no),
        Relation::NotEqual(value) => equal(out, comparison, value, no, yes),
        Relation::Greater(value) => greater(out, comparison, (If::Greater, value), yes, no),
        Relation::LessOrEqual(value) => greater(out, comparison, (If::Greater, value), no, yes),
        Relation::GreaterOrEqual(value) => greater(out, comparison, (If::GreaterOrEqual, value), yes, no),
        Relation::Less(value) => greater(out, comparison, (If::GreaterOrEqual, value), no, yes),
        Relation::Masked { mask, value } => masked(out, comparison, (mask, value), yes, no),
    }
}

fn equal(out: &mut Assembler, comparison: &Comparison, value: u64, yes: At, no: At) -> At {
    let (low, high) = halves(value);
    out.branch(If::Equal, low, yes, no);
    let low_half = out.load(argument_low(comparison.argument));
    if comparison.narrow {
        return low_half;
    }
    out.branch(If::Equal, high, low_half, no);
    out.load(argument_high(comparison.argument))
}

fn greater(out: &mut Assembler, comparison: &Comparison, than: (If, u64), yes: At, no: At) -> At {
    let (test, value) = than;
    let (low, high) = halves(value);
    out.branch(test, low, yes, no);
    let low_half = out.load(argument_low(comparison.argument));
    if comparison.narrow {
        return low_half;
    }
    let same = out.branch(If::Equal, high, low_half, no);
    out.branch(If::Greater, high, yes, same);
    out.load(argument_high(comparison.argument))
}

fn masked(out: &mut Assembler, comparison: &Comparison, mask_value: (u64, u64), yes: At, no: At) -> At {
    let (mask, value) = mask_value;
    if value & !mask != 0 {
        return no;
    }
    let ((mask_low, mask_high), (low, high)) = (halves(mask), halves(value));
    let mut entry = yes;
    if mask_low != 0 {
        out.branch(If::Equal, low, entry, no);
        out.and(mask_low);
        entry = out.load(argument_low(comparison.argument));
    }
    if mask_high != 0 && !comparison.narrow {
        out.branch(If::Equal, high, entry, no);
        out.and(mask_high);
        entry = out.load(argument_high(comparison.argument));
    }
    entry
}
