//! From the profile's words to verdicts by architecture and number.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator as Operator,
};

use super::Error;
use super::arch::Arch;
use super::program::Flags;

pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const MAX_ERRNO: u32 = 4095;

/// What the kernel shall return for numbers newer than the profile.
pub(super) const UNKNOWN_CALL: u32 = ERRNO | ENOSYS;

/// A profile in the terms of the kernel: return values instead of actions, numbers instead of names.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) default: u32,
    pub(super) arches: BTreeMap<Arch, Verdicts>,
    pub(super) flags: Flags,
    pub(super) ignored: Vec<String>,
}

/// What happens to the system calls of one ABI, by number.
pub(super) type Verdicts = BTreeMap<u32, Verdict>;

/// What happens to one system call: the first test that holds decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) tests: Vec<Test>,
    pub(super) otherwise: u32,
}

/// All comparisons must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) all: Vec<Comparison>,
    pub(super) then: u32,
}

/// One argument against a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) argument: u32,
    pub(super) relation: Relation,
    /// Only the low half exists, as on 32-bit ABIs.
    pub(super) narrow: bool,
}

/// How an argument must relate to constants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Relation {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    Masked { mask: u64, value: u64 },
}

/// One rule as the profile gives it, before it meets an architecture.
struct Rule<'a> {
    names: &'a [String],
    then: u32,
    conditions: Vec<&'a LinuxSeccompArg>,
}

impl Policy {
    /// Reads `profile` for a kernel whose native ABI is `native`.
    pub(super) fn new(profile: &LinuxSeccomp, native: Arch) -> Result<Self, Error> {
        let default_action = profile.default_action();
        if default_action == Action::ScmpActNotify {
            return Err(Error::Notify("the default action"));
        }
        let default = return_value(default_action, profile.default_errno_ret(), "defaultErrnoRet")?;
        let (arches, mut ignored) = architectures(profile, native);
        let rules = rules(profile)?;
        let mut flags = flags(profile);
        if rules.iter().any(|rule| rule.then == NOTIFY) {
            flags = flags.union(Flags::NEW_LISTENER);
        }
        ignored.extend(unknown_names(&rules, &arches));
        let arches = arches.into_iter().map(|arch| (arch, verdicts(&rules, arch, default))).collect();
        Ok(Policy { default, arches, flags, ignored })
    }

    /// Whether calls newer than the profile fail with `ENOSYS` instead of the default.
    pub(super) fn softens_unknown(&self) -> bool {
        self.default & 0xffff_0000 == ERRNO && self.default != UNKNOWN_CALL
    }
}

fn architectures(profile: &LinuxSeccomp, native: Arch) -> (Vec<Arch>, Vec<String>) {
    let mut arches = vec![native];
    let mut ignored = Vec::new();
    for &name in profile.architectures().iter().flatten() {
        match Arch::from_oci(name) {
            Some(arch) if native.family().contains(&arch) => arches.push(arch),
            Some(_) => ignored.push(oci_name(name)),
            None if name == OciArch::ScmpArchNative => {}
            None => ignored.push(oci_name(name)),
        }
    }
    arches.sort_unstable();
    arches.dedup();
    (arches, ignored)
}

fn oci_name(arch: OciArch) -> String {
    serde_json::to_value(arch)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_else(|| format!("{arch:?}"))
}

fn flags(profile: &LinuxSeccomp) -> Flags {
    profile.flags().iter().flatten().fold(Flags::NONE, |all, flag| {
        all.union(match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => Flags::LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => Flags::TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => Flags::SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => Flags::WAIT_KILLABLE,
        })
    })
}

fn rules(profile: &LinuxSeccomp) -> Result<Vec<Rule<'_>>, Error> {
    let mut rules = Vec::new();
    for entry in profile.syscalls().iter().flatten() {
        let then = return_value(entry.action(), entry.errno_ret(), "errnoRet")?;
        if then == NOTIFY && entry.names().iter().any(|name| name == "write") {
            return Err(Error::Notify("write"));
        }
        let arguments = entry.args().as_deref().unwrap_or_default();
        if let Some(wrong) = arguments.iter().find(|argument| argument.index() > 5) {
            return Err(Error::Invalid { field: "args.index", value: wrong.index().to_string() });
        }
        let names = entry.names().as_slice();
        let repeated = (0..6).any(|i| arguments.iter().filter(|a| a.index() == i).count() > 1);
        if repeated {
            rules.extend(arguments.iter().map(|a| Rule { names, then, conditions: vec![a] }));
        } else {
            rules.push(Rule { names, then, conditions: arguments.iter().collect() });
        }
    }
    Ok(rules)
}

fn return_value(action: Action, errno: Option<u32>, field: &'static str) -> Result<u32, Error> {
    let data = |limit: u32| match errno.unwrap_or(EPERM) {
        value if value <= limit => Ok(value),
        value => Err(Error::Invalid { field, value: value.to_string() }),
    };
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => KILL_THREAD,
        Action::ScmpActKillProcess => KILL_PROCESS,
        Action::ScmpActTrap => TRAP,
        Action::ScmpActErrno => ERRNO | data(MAX_ERRNO)?,
        Action::ScmpActNotify => NOTIFY,
        Action::ScmpActTrace => TRACE | data(0xffff)?,
        Action::ScmpActLog => LOG,
        Action::ScmpActAllow => ALLOW,
    })
}

fn unknown_names(rules: &[Rule<'_>], arches: &[Arch]) -> Vec<String> {
    let mut unknown: Vec<String> = rules
        .iter()
        .flat_map(|rule| rule.names)
        .filter(|name| arches.iter().all(|arch| arch.number(name).is_none()))
        .cloned()
        .collect();
    unknown.sort_unstable();
    unknown.dedup();
    unknown
}

fn verdicts(rules: &[Rule<'_>], arch: Arch, default: u32) -> Verdicts {
    let mut found: BTreeMap<u32, (Vec<Test>, Option<u32>)> = BTreeMap::new();
    for rule in rules {
        for nr in rule.names.iter().filter_map(|name| arch.number(name)) {
            let (tests, unconditional) = found.entry(nr).or_default();
            if rule.conditions.is_empty() {
                unconditional.get_or_insert(rule.then);
            } else {
                let all = rule.conditions.iter().map(|c| comparison(c, arch.narrow())).collect();
                tests.push(Test { all, then: rule.then });
            }
        }
    }
    found
        .into_iter()
        .map(|(nr, (tests, unconditional))| {
            (nr, Verdict { tests, otherwise: unconditional.unwrap_or(default) }.simplified())
        })
        .collect()
}

impl Verdict {
    /// Without the tests at the end that decide what would be decided anyway.
    fn simplified(mut self) -> Self {
        while self.tests.last().is_some_and(|test| test.then == self.otherwise) {
            self.tests.pop();
        }
        self
    }
}

fn comparison(argument: &LinuxSeccompArg, narrow: bool) -> Comparison {
    let fit = |value: u64| if narrow { value & 0xffff_ffff } else { value };
    let value = fit(argument.value());
    let relation = match argument.op() {
        Operator::ScmpCmpNe => Relation::NotEqual(value),
        Operator::ScmpCmpLt => Relation::Less(value),
        Operator::ScmpCmpLe => Relation::LessOrEqual(value),
        Operator::ScmpCmpEq => Relation::Equal(value),
        Operator::ScmpCmpGe => Relation::GreaterOrEqual(value),
        Operator::ScmpCmpGt => Relation::Greater(value),
        Operator::ScmpCmpMaskedEq => {
            Relation::Masked { mask: value, value: fit(argument.value_two().unwrap_or(0)) }
        }
    };
    let index = u32::try_from(argument.index()).unwrap_or(u32::MAX);
    Comparison { argument: index, relation, narrow }
}
