//! Device rules: what they add up to, v1's lines and v2's program under an interpreter.

use proptest::prelude::*;

use super::super::device::v1_writes;
use super::super::*;
use super::resources;

fn policy(json: &str) -> DevicePolicy {
    let resources = resources(&format!(r#"{{"devices":{json}}}"#));
    DevicePolicy::new(resources.devices().as_ref().unwrap()).unwrap()
}

fn lines(policy: &DevicePolicy) -> Vec<String> {
    policy.exceptions.iter().map(ToString::to_string).collect()
}

const DENY_ALL: &str = r#"{"allow":false,"access":"rwm"}"#;

#[test]
fn rules_add_up() {
    let policy = policy(&format!(
        r#"[{{"allow":true,"type":"c","major":9,"minor":9,"access":"r"}},{DENY_ALL},
        {{"allow":true,"type":"c","access":"m"}},{{"allow":true,"type":"c","major":1,"minor":3,"access":"r"}},
        {{"allow":true,"type":"c","major":1,"minor":3,"access":"wm"}},
        {{"allow":true,"type":"b","major":8,"minor":-1,"access":"rwm"}},
        {{"allow":false,"type":"b","major":8,"access":"m"}}]"#
    ));
    assert!(!policy.allow_by_default);
    assert_eq!(lines(&policy), ["c *:* m", "c 1:3 rwm", "b 8:* rw"]);
}

#[test]
fn bad_rules_are_refused() {
    for bad in [
        r#"[{"allow":true,"type":"c","major":1,"minor":3,"access":"x"}]"#,
        r#"[{"allow":true,"type":"c","major":-7,"access":"r"}]"#,
        r#"[{"allow":true,"type":"p","access":"r"}]"#,
    ] {
        let resources = resources(&format!(r#"{{"devices":{bad}}}"#));
        assert!(DevicePolicy::new(resources.devices().as_ref().unwrap()).is_err(), "{bad}");
    }
}

#[test]
fn v1_lines() {
    let wanted = policy(&format!(
        r#"[{DENY_ALL},{{"allow":true,"type":"c","major":1,"minor":3,"access":"rw"}},
        {{"allow":true,"type":"c","major":1,"minor":5,"access":"rwm"}}]"#
    ));
    let line = |file, text: &str| (file, text.to_owned());
    assert_eq!(
        v1_writes("a *:* rwm", &wanted),
        [line("devices.deny", "a"), line("devices.allow", "c 1:3 rw"), line("devices.allow", "c 1:5 rwm")]
    );
    // From one list to another nothing is taken away that stays.
    assert_eq!(
        v1_writes("c 1:3 rwm\nc 1:5 r\nc 9:9 r", &wanted),
        [
            line("devices.deny", "c 1:3 m"),
            line("devices.deny", "c 9:9 r"),
            line("devices.allow", "c 1:3 rw"),
            line("devices.allow", "c 1:5 rwm")
        ]
    );
    assert_eq!(v1_writes("c 1:3 rw\nc 1:5 rwm", &wanted), []);
    let open = policy(
        r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"minor":0,"access":"w"}]"#,
    );
    assert_eq!(v1_writes("c 1:3 rw", &open), [line("devices.allow", "a"), line("devices.deny", "b 8:0 w")]);
}

/// Runs an assembled program.
fn run(code: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
    let context = [access << 16 | kind, major, minor];
    let mut registers = [0_u64; 11];
    let mut at = 0;
    loop {
        let [op, regs, o0, o1, i0, i1, i2, i3] = code[at].to_le_bytes();
        let (to, from) = (usize::from(regs & 15), usize::from(regs >> 4));
        let offset = usize::from(u16::from_le_bytes([o0, o1]));
        let value = u64::from(u32::from_le_bytes([i0, i1, i2, i3]));
        at += 1;
        match op {
            0x61 => registers[to] = u64::from(context[offset / 4]),
            0xbf => registers[to] = registers[from],
            0xb7 => registers[to] = value,
            0x57 => registers[to] &= value,
            0x77 => registers[to] >>= value,
            0x15 if registers[to] == value => at += offset,
            0x55 if registers[to] != value => at += offset,
            0x15 | 0x55 => {}
            0x95 => return registers[0],
            _ => panic!("instruction {op:#x}"),
        }
    }
}

fn verdict(policy: &DevicePolicy, kind: u32, access: u32, major: u32, minor: u32) -> bool {
    let meets = |rule: &DeviceRule| {
        let same_kind = (rule.kind == Kind::Block) == (kind == 1);
        same_kind && rule.major.is_none_or(|n| n == major) && rule.minor.is_none_or(|n| n == minor)
    };
    let exception = policy.exceptions.iter().filter(|rule| meets(rule)).any(|rule| {
        if policy.allow_by_default { access & rule.access.0 != 0 } else { access & !rule.access.0 == 0 }
    });
    exception != policy.allow_by_default
}

fn rule() -> impl Strategy<Value = DeviceRule> {
    let number = || prop::option::of(0_u32..4);
    (any::<bool>(), number(), number(), 1_u32..8).prop_map(|(block, major, minor, access)| DeviceRule {
        kind: if block { Kind::Block } else { Kind::Char },
        major,
        minor,
        access: device::Access(access),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn programs_agree_with_policies(
        allow_by_default: bool,
        exceptions in prop::collection::vec(rule(), 0..8),
        accesses in prop::collection::vec((1_u32..3, 1_u32..8, 0_u32..5, 0_u32..5), 32),
    ) {
        let policy = DevicePolicy { allow_by_default, exceptions };
        let code = v2_device_program(&policy);
        for (kind, access, major, minor) in accesses {
            let wanted = u64::from(verdict(&policy, kind, access, major, minor));
            prop_assert_eq!(run(&code, kind, access, major, minor), wanted);
        }
    }
}
