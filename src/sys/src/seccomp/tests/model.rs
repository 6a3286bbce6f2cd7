//! Random profiles, and what they mean, read straight from the profile's own words.

use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Operator, LinuxSyscall, LinuxSyscallBuilder,
};
use proptest::prelude::*;

use super::super::{Arch, table};
use super::interpreter::Call;

const NAMES: [&str; 14] = [
    "read",
    "write",
    "open",
    "close",
    "stat",
    "socket",
    "clone",
    "ioctl",
    "openat",
    "mmap",
    "futex_wait",
    "set_tls",
    "rt_sigaction",
    "no_such_call",
];

fn action() -> impl Strategy<Value = Action> {
    prop::sample::select(vec![
        Action::ScmpActAllow,
        Action::ScmpActErrno,
        Action::ScmpActKillProcess,
        Action::ScmpActKillThread,
        Action::ScmpActTrap,
        Action::ScmpActLog,
        Action::ScmpActTrace,
    ])
}

/// Few values, with both halves small, so that calls often meet the rules.
fn value() -> impl Strategy<Value = u64> {
    let half = || prop::sample::select(vec![0_u64, 1, 2, 3, 0x8000_0000, 0xffff_ffff]);
    (half(), half()).prop_map(|(high, low)| high << 32 | low)
}

fn argument() -> impl Strategy<Value = LinuxSeccompArg> {
    let operator = prop::sample::select(vec![
        Operator::ScmpCmpNe,
        Operator::ScmpCmpLt,
        Operator::ScmpCmpLe,
        Operator::ScmpCmpEq,
        Operator::ScmpCmpGe,
        Operator::ScmpCmpGt,
        Operator::ScmpCmpMaskedEq,
    ]);
    (0_usize..3, value(), prop::option::of(value()), operator).prop_map(|(index, value, two, op)| {
        let builder = LinuxSeccompArgBuilder::default().index(index).value(value).op(op);
        match two {
            Some(two) => builder.value_two(two),
            None => builder,
        }
        .build()
        .unwrap()
    })
}

fn syscall() -> impl Strategy<Value = LinuxSyscall> {
    let names = prop::collection::vec(prop::sample::select(NAMES.to_vec()), 1..4);
    let args = prop::collection::vec(argument(), 0..4);
    (names, action(), prop::option::of(0_u32..200), args).prop_map(|(names, action, errno, args)| {
        let names: Vec<String> =
            names.into_iter().map(str::to_owned).filter(|n| n != "write" || args.is_empty()).collect();
        let mut builder = LinuxSyscallBuilder::default().names(names).action(action);
        if let Some(errno) = errno {
            builder = builder.errno_ret(errno);
        }
        if !args.is_empty() {
            builder = builder.args(args);
        }
        builder.build().unwrap()
    })
}

pub(super) fn profile() -> impl Strategy<Value = LinuxSeccomp> {
    let arches = prop::sample::subsequence(
        vec![
            OciArch::ScmpArchX86_64,
            OciArch::ScmpArchX86,
            OciArch::ScmpArchX32,
            OciArch::ScmpArchAarch64,
            OciArch::ScmpArchArm,
        ],
        0..=5,
    );
    let syscalls = prop::collection::vec(syscall(), 0..12);
    (action(), prop::option::of(0_u32..200), arches, syscalls).prop_map(|(action, errno, arches, calls)| {
        let mut profile = LinuxSeccomp::default();
        profile
            .set_default_action(action)
            .set_default_errno_ret(errno)
            .set_architectures(Some(arches))
            .set_syscalls(Some(calls));
        profile
    })
}

pub(super) fn call() -> impl Strategy<Value = Call> {
    let named = (prop::sample::select(NAMES.to_vec()), prop::sample::select(Arch::ALL.to_vec()))
        .prop_map(|(name, arch)| (arch.audit_token(), arch.number(name).unwrap_or(3)));
    let numbered = (prop::sample::select(Arch::ALL.to_vec()), 0_u32..500, any::<bool>())
        .prop_map(|(arch, nr, x32)| (arch.audit_token(), if x32 { nr | 0x4000_0000 } else { nr }));
    let odd = (prop::sample::select(vec![0xc000_003e_u32, 0x4000_0028, 0x8000_0016]), any::<u32>());
    let token_and_number = prop_oneof![6 => named, 2 => numbered, 1 => odd];
    (token_and_number, prop::array::uniform6(value())).prop_map(|((arch, nr), args)| Call { arch, nr, args })
}

fn returned(action: Action, errno: Option<u32>) -> u32 {
    let data = errno.unwrap_or(1);
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => 0,
        Action::ScmpActKillProcess => 0x8000_0000,
        Action::ScmpActTrap => 0x0003_0000,
        Action::ScmpActErrno => 0x0005_0000 | data,
        Action::ScmpActNotify => 0x7fc0_0000,
        Action::ScmpActTrace => 0x7ff0_0000 | data,
        Action::ScmpActLog => 0x7ffc_0000,
        Action::ScmpActAllow => 0x7fff_0000,
    }
}

fn holds(argument: &LinuxSeccompArg, args: &[u64; 6], narrow: bool) -> bool {
    let fit = |v: u64| if narrow { v & 0xffff_ffff } else { v };
    let (have, value) = (fit(args[argument.index()]), fit(argument.value()));
    match argument.op() {
        Operator::ScmpCmpNe => have != value,
        Operator::ScmpCmpLt => have < value,
        Operator::ScmpCmpLe => have <= value,
        Operator::ScmpCmpEq => have == value,
        Operator::ScmpCmpGe => have >= value,
        Operator::ScmpCmpGt => have > value,
        Operator::ScmpCmpMaskedEq => have & value == fit(argument.value_two().unwrap_or(0)),
    }
}

fn matches(entry: &LinuxSyscall, args: &[u64; 6], narrow: bool) -> Option<bool> {
    let list = entry.args().as_ref()?;
    let repeated = list.iter().enumerate().any(|(i, a)| list[..i].iter().any(|b| b.index() == a.index()));
    Some(if repeated {
        list.iter().any(|a| holds(a, args, narrow))
    } else {
        list.iter().all(|a| holds(a, args, narrow))
    })
}

/// What `profile` says about `call` on a kernel whose native ABI is `native`.
pub(super) fn verdict(profile: &LinuxSeccomp, native: Arch, call: &Call) -> u32 {
    let default = returned(profile.default_action(), profile.default_errno_ret());
    let x86_64 = call.arch == Arch::X86_64.audit_token();
    if x86_64 && native == Arch::X86_64 && call.nr == u32::MAX {
        return default;
    }
    let arch = Arch::ALL.into_iter().find(|arch| {
        arch.audit_token() == call.arch && (!x86_64 || (*arch == Arch::X32) == (call.nr >= 0x4000_0000))
    });
    let listed = |arch: &Arch| {
        let named = profile.architectures().iter().flatten().any(|a| *a == arch.to_oci());
        *arch == native || (named && native.family().contains(arch))
    };
    let Some(arch) = arch.filter(listed) else { return 0x8000_0000 };
    let narrow = matches!(arch, Arch::X86 | Arch::Arm);
    let entries = || profile.syscalls().iter().flatten();
    let known = || entries().flat_map(LinuxSyscall::names).filter_map(|n| arch.number(n));
    let public = |nr: &u32| arch != Arch::Arm || *nr < 0xf_0000;
    let is_newer = known().filter(public).max().is_some_and(|max| call.nr > max) && public(&call.nr);
    if is_newer && default & 0xffff_0000 == 0x0005_0000 {
        return 0x0005_0026;
    }
    let names = |entry: &&LinuxSyscall| entry.names().iter().any(|n| arch.number(n) == Some(call.nr));
    let conditional = entries().filter(names).find(|e| matches(e, &call.args, narrow) == Some(true));
    let plain = || entries().filter(names).find(|e| e.args().is_none());
    conditional.or_else(plain).map_or(default, |entry| returned(entry.action(), entry.errno_ret()))
}

#[test]
fn names_are_in_the_table() {
    assert!(NAMES[..13].iter().all(|name| table::numbers(name).is_some()));
}
