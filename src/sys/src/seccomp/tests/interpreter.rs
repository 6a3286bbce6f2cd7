//! The part of classic BPF that seccomp allows and the compiler uses.

/// What the kernel shows a filter.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) arch: u32,
    pub(super) nr: u32,
    pub(super) args: [u64; 6],
}

fn fields(word: u64) -> (u16, usize, usize, u32) {
    let [c0, c1, jt, jf, k0, k1, k2, k3] = word.to_le_bytes();
    (u16::from_le_bytes([c0, c1]), usize::from(jt), usize::from(jf), u32::from_le_bytes([k0, k1, k2, k3]))
}

pub(super) fn run(code: &[u64], call: &Call) -> u32 {
    let mut data = Vec::new();
    data.extend(call.nr.to_le_bytes());
    data.extend(call.arch.to_le_bytes());
    data.extend(0_u64.to_le_bytes());
    call.args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
    let (mut at, mut a) = (0, 0_u32);
    loop {
        let (op, jt, jf, k) = fields(code[at]);
        at += 1;
        let mut branch = |taken: bool| at += if taken { jt } else { jf };
        match op {
            0x20 => {
                let offset = usize::try_from(k).unwrap();
                a = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            0x54 => a &= k,
            0x05 => at += usize::try_from(k).unwrap(),
            0x15 => branch(a == k),
            0x25 => branch(a > k),
            0x35 => branch(a >= k),
            0x06 => return k,
            _ => panic!("instruction {op:#x}"),
        }
    }
}

/// What the kernel checks before it takes a program.
pub(super) fn verify(code: &[u64]) {
    assert!(!code.is_empty() && code.len() <= super::MAX_INSTRUCTIONS);
    for (at, &word) in code.iter().enumerate() {
        let (op, jt, jf, k) = fields(word);
        match op {
            0x20 => assert!(k % 4 == 0 && k < 64),
            0x05 => assert!(at + 1 + usize::try_from(k).unwrap() < code.len()),
            0x15 | 0x25 | 0x35 => assert!(at + 1 + jt.max(jf) < code.len()),
            0x06 | 0x54 => {}
            _ => panic!("instruction {op:#x}"),
        }
    }
    assert_eq!(fields(*code.last().unwrap()).0, 0x06, "the last instruction returns");
}
