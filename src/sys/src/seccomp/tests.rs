//! Compiled programs against a direct reading of the profile, and against the kernel.

mod interpreter;
mod kernel;
mod model;

use oci_spec::runtime::{Arch as OciArch, LinuxSeccomp, LinuxSeccompAction as Action};
use proptest::prelude::*;

use super::*;
use interpreter::Call;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL_PROCESS: u32 = 0x8000_0000;
const NEW_KERNEL: KernelVersion = KernelVersion { major: 6, minor: 12 };

fn default_profile(caps: &[&str], arch: Arch) -> LinuxSeccomp {
    Profile::parse(DEFAULT_PROFILE).unwrap().resolve(caps, NEW_KERNEL, arch).unwrap()
}

fn run(program: &Program, arch: Arch, name: &str, args: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    let nr = arch.number(name).unwrap();
    interpreter::run(program.instructions(), &Call { arch: arch.audit_token(), nr, args: all })
}

fn parse(json: &str) -> LinuxSeccomp {
    Profile::parse(json).unwrap().resolve(&[], NEW_KERNEL, Arch::X86_64).unwrap()
}

#[test]
fn table_is_sorted_and_numbers_are_unique() {
    assert!(table::TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for arch in Arch::ALL {
        let mut numbers: Vec<u32> = table::TABLE.iter().filter_map(|row| arch.number(row.0)).collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "{arch:?}");
        assert_eq!(arch.name(arch.number("close").unwrap()), Some("close"));
    }
    assert_eq!(Arch::X86_64.number("seccomp"), Some(u32::try_from(libc::SYS_seccomp).unwrap()));
    assert_eq!(Arch::X32.number("read"), Some(0x4000_0000));
    assert_eq!(Arch::Aarch64.number("open"), None);
}

#[test]
fn default_profile_is_small() {
    for (arch, most) in [(Arch::X86_64, 700), (Arch::Aarch64, 500)] {
        let program = compile_for(&default_profile(&[], arch), arch).unwrap();
        assert!(program.instructions().len() < most, "{arch:?}: {}", program.instructions().len());
    }
    let mut native = default_profile(&[], Arch::X86_64);
    native.set_architectures(Some(vec![OciArch::ScmpArchX86_64]));
    let count = compile_for(&native, Arch::X86_64).unwrap().instructions().len();
    assert!(count < 250, "{count}");
}

#[test]
fn default_profile_judges_sockets_by_family() {
    let program = compile_for(&default_profile(&[], Arch::X86_64), Arch::X86_64).unwrap();
    for arch in [Arch::X86_64, Arch::X86, Arch::X32] {
        for family in 0..64 {
            let wanted = if family == 38 || family == 40 { EPERM } else { ALLOW };
            assert_eq!(run(&program, arch, "socket", &[family]), wanted, "{arch:?} {family}");
        }
    }
    // The kernel looks at 32 bits only, so the rest of the register must not open a way.
    assert_eq!(run(&program, Arch::X86_64, "socket", &[0x1_0000_0026]), EPERM);
    assert_eq!(run(&program, Arch::X86_64, "socket", &[0xffff_ffff_0000_0028]), EPERM);
}

#[test]
fn default_profile_and_capabilities() {
    let plain = compile_for(&default_profile(&[], Arch::X86_64), Arch::X86_64).unwrap();
    let admin = compile_for(&default_profile(&["CAP_SYS_ADMIN"], Arch::X86_64), Arch::X86_64).unwrap();
    let x64 = Arch::X86_64;
    for flag in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        assert_eq!(run(&plain, x64, "clone", &[flag | 17]), EPERM);
        assert_eq!(run(&admin, x64, "clone", &[flag | 17]), ALLOW);
    }
    assert_eq!(run(&plain, x64, "clone", &[0x3d_0f00]), ALLOW);
    assert_eq!(run(&plain, x64, "clone3", &[]), ENOSYS);
    assert_eq!(run(&admin, x64, "clone3", &[]), ALLOW);
    for call in ["mount", "bpf", "setns", "unshare", "fsopen", "syslog"] {
        assert_eq!(run(&plain, x64, call, &[]), EPERM, "{call}");
        assert_eq!(run(&admin, x64, call, &[]), ALLOW, "{call}");
    }
    for call in ["io_uring_setup", "userfaultfd", "keyctl", "add_key", "kexec_load", "pivot_root", "swapon"] {
        assert_eq!(run(&plain, x64, call, &[]), EPERM, "{call}");
        assert_eq!(run(&admin, x64, call, &[]), EPERM, "{call}");
    }
    for (cap, call) in [
        ("CAP_SYS_PTRACE", "kcmp"),
        ("CAP_SYS_MODULE", "init_module"),
        ("CAP_SYS_TIME", "settimeofday"),
        ("CAP_SYS_NICE", "mbind"),
        ("CAP_SYS_RAWIO", "iopl"),
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_CHROOT", "chroot"),
        ("CAP_SYS_PACCT", "acct"),
        ("CAP_SYS_TTY_CONFIG", "vhangup"),
        ("CAP_SYSLOG", "syslog"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ] {
        let with = compile_for(&default_profile(&[cap], x64), x64).unwrap();
        assert_eq!(run(&plain, x64, call, &[]), EPERM, "{call}");
        assert_eq!(run(&with, x64, call, &[]), ALLOW, "{call}");
    }
}

#[test]
fn default_profile_and_persona() {
    let program = compile_for(&default_profile(&[], Arch::X86_64), Arch::X86_64).unwrap();
    for value in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        assert_eq!(run(&program, Arch::X86_64, "personality", &[value]), ALLOW);
    }
    for value in [1, 0x4_0000, 0x1_0000_0000, u64::MAX] {
        assert_eq!(run(&program, Arch::X86_64, "personality", &[value]), EPERM);
    }
}

#[test]
fn default_profile_by_kernel_and_architecture() {
    let profile = Profile::parse(DEFAULT_PROFILE).unwrap();
    let old = profile.resolve(&[], KernelVersion { major: 4, minor: 4 }, Arch::X86_64).unwrap();
    let old = compile_for(&old, Arch::X86_64).unwrap();
    let new = compile_for(&default_profile(&[], Arch::X86_64), Arch::X86_64).unwrap();
    assert_eq!(run(&old, Arch::X86_64, "ptrace", &[]), EPERM);
    assert_eq!(run(&new, Arch::X86_64, "ptrace", &[]), ALLOW);
    assert_eq!(run(&new, Arch::X86_64, "arch_prctl", &[]), ALLOW);
    assert_eq!(run(&new, Arch::X86, "modify_ldt", &[]), ALLOW);
    let arm = compile_for(&default_profile(&[], Arch::Aarch64), Arch::Aarch64).unwrap();
    assert_eq!(run(&arm, Arch::Aarch64, "openat", &[]), ALLOW);
    assert_eq!(run(&arm, Arch::Arm, "set_tls", &[]), ALLOW);
    assert_eq!(run(&arm, Arch::Arm, "breakpoint", &[]), ALLOW);
    assert_eq!(run(&arm, Arch::Aarch64, "mount", &[]), EPERM);
}

#[test]
fn other_architectures_are_killed_and_new_calls_are_unknown() {
    let program = compile_for(&default_profile(&[], Arch::X86_64), Arch::X86_64).unwrap();
    let at = |arch, nr| interpreter::run(program.instructions(), &Call { arch, nr, args: [0; 6] });
    assert_eq!(at(0xc000_00b7, 63), KILL_PROCESS);
    assert_eq!(at(X86_64, 900), ENOSYS);
    assert_eq!(at(I386, 900), ENOSYS);
    // A tracer's -1 and numbers inside the known range get the default.
    assert_eq!(at(X86_64, u32::MAX), EPERM);
    assert_eq!(at(X86_64, 425), EPERM);
    let native = parse(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"]}"#);
    let program = compile_for(&native, Arch::X86_64).unwrap();
    let at = |arch, nr| interpreter::run(program.instructions(), &Call { arch, nr, args: [0; 6] });
    assert_eq!(at(X86_64, 900), ALLOW);
    assert_eq!(at(X86_64, 0x4000_0000), KILL_PROCESS);
    assert_eq!(at(I386, 4), KILL_PROCESS);
}

#[test]
fn unknown_names_and_foreign_architectures_are_reported() {
    let profile = parse(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_S390X","SCMP_ARCH_X86"],
        "syscalls":[{"names":["read","frobnicate"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    let program = compile_for(&profile, Arch::X86_64).unwrap();
    assert_eq!(program.ignored(), ["SCMP_ARCH_S390X", "frobnicate"]);
}

#[test]
fn what_cannot_work_is_refused() {
    let notify = |json| compile_for(&parse(json), Arch::X86_64).unwrap_err().to_string();
    let text = notify(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#);
    assert_eq!(text, "seccomp profile: SCMP_ACT_NOTIFY cannot be used for the default action");
    let text = notify(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}"#,
    );
    assert_eq!(text, "seccomp profile: SCMP_ACT_NOTIFY cannot be used for write");
    let text = notify(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":5000}]}"#,
    );
    assert_eq!(text, "seccomp profile: errnoRet cannot be \"5000\"");
    let text = notify(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(text, "seccomp profile: args.index cannot be \"6\"");
    assert!(Profile::parse("{}").is_err());
    let both = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#;
    assert!(Profile::parse(both).is_err());
}

#[test]
fn too_many_rules_are_refused() {
    let rule = |value: u32| {
        format!(
            r#"{{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":{},"args":[{{"index":0,"value":{value},"op":"SCMP_CMP_EQ"}}]}}"#,
            value % 7 + 1
        )
    };
    let profile = |count| {
        let rules: Vec<String> = (0..count).map(rule).collect();
        parse(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#, rules.join(",")))
    };
    let fits = compile_for(&profile(900), Arch::X86_64).unwrap();
    // Each is reached over trampolines.
    assert_eq!(run(&fits, Arch::X86_64, "read", &[899]), 0x0005_0000 | (899 % 7 + 1));
    assert_eq!(run(&fits, Arch::X86_64, "read", &[900]), ALLOW);
    assert!(matches!(compile_for(&profile(1100), Arch::X86_64), Err(Error::TooLong(count)) if count > 4096));
}

#[test]
fn actions_and_flags() {
    let profile = parse(
        r#"{"defaultAction":"SCMP_ACT_KILL_THREAD","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        "syscalls":[{"names":["read"],"action":"SCMP_ACT_TRACE","errnoRet":7},{"name":"open","action":"SCMP_ACT_TRAP"},
        {"names":["close"],"action":"SCMP_ACT_LOG"},{"names":["stat"],"action":"SCMP_ACT_NOTIFY"}]}"#,
    );
    let program = compile_for(&profile, Arch::X86_64).unwrap();
    assert_eq!(run(&program, Arch::X86_64, "read", &[]), 0x7ff0_0007);
    assert_eq!(run(&program, Arch::X86_64, "open", &[]), 0x0003_0000);
    assert_eq!(run(&program, Arch::X86_64, "close", &[]), 0x7ffc_0000);
    assert_eq!(run(&program, Arch::X86_64, "stat", &[]), 0x7fc0_0000);
    assert_eq!(run(&program, Arch::X86_64, "fstat", &[]), 0);
    assert!(program.notifies() && program.flags().contains(Flags::LOG.union(Flags::SPEC_ALLOW)));
    assert!(!program.flags().contains(Flags::TSYNC));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn programs_agree_with_the_profile(
        profile in model::profile(),
        native in prop::sample::select(vec![Arch::X86_64, Arch::Aarch64]),
        calls in prop::collection::vec(model::call(), 64),
    ) {
        let program = compile_for(&profile, native).unwrap();
        interpreter::verify(program.instructions());
        for call in calls {
            let wanted = model::verdict(&profile, native, &call);
            prop_assert_eq!(interpreter::run(program.instructions(), &call), wanted, "{:?}", call);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_default_profile_agrees_too(calls in prop::collection::vec(model::call(), 128)) {
        for native in [Arch::X86_64, Arch::Aarch64] {
            let profile = default_profile(&["CAP_SYS_CHROOT"], native);
            let program = compile_for(&profile, native).unwrap();
            for call in &calls {
                let wanted = model::verdict(&profile, native, call);
                prop_assert_eq!(interpreter::run(program.instructions(), call), wanted, "{:?}", call);
            }
        }
    }
}

#[test]
fn every_number_of_the_default_profile() {
    let profile = default_profile(&[], Arch::X86_64);
    let program = compile_for(&profile, Arch::X86_64).unwrap();
    for arch in [X86_64, I386] {
        for nr in (0..1000).chain(0x4000_0000..0x4000_0400).chain([u32::MAX - 1, u32::MAX]) {
            let call = Call { arch, nr, args: [7, 0, 0, 0, 0, 0] };
            let wanted = model::verdict(&profile, Arch::X86_64, &call);
            assert_eq!(interpreter::run(program.instructions(), &call), wanted, "{call:?}");
        }
    }
    assert_eq!(profile.default_action(), Action::ScmpActErrno);
}
