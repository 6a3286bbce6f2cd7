//! Architectures a program can judge.

use oci_spec::runtime::Arch as OciArch;

use super::table;

/// Bit that marks a system call of the x32 ABI.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// An ABI with a table of system call numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    X86,
    /// x86-64 instructions with 32-bit pointers; shares its audit token with [`Arch::X86_64`].
    X32,
    /// 64-bit Arm.
    Aarch64,
    /// 32-bit Arm, EABI.
    Arm,
}

impl Arch {
    /// All of them, in the order of the table's columns.
    pub const ALL: [Arch; 5] = [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm];

    /// What this program was built for; `None` where there is no table.
    #[must_use]
    pub fn native() -> Option<Arch> {
        if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
            Some(Arch::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Arch::Aarch64)
        } else if cfg!(target_arch = "x86") {
            Some(Arch::X86)
        } else if cfg!(target_arch = "arm") {
            Some(Arch::Arm)
        } else {
            None
        }
    }

    /// The ABIs a kernel of this architecture can run; others named by a profile can never occur.
    #[must_use]
    pub fn family(self) -> &'static [Arch] {
        match self {
            Arch::X86_64 | Arch::X32 => &[Arch::X86_64, Arch::X86, Arch::X32],
            Arch::X86 => &[Arch::X86, Arch::X86_64, Arch::X32],
            Arch::Aarch64 => &[Arch::Aarch64, Arch::Arm],
            Arch::Arm => &[Arch::Arm, Arch::Aarch64],
        }
    }

    /// The `AUDIT_ARCH_…` token in `seccomp_data.arch`.
    #[must_use]
    pub fn audit_token(self) -> u32 {
        match self {
            Arch::X86_64 | Arch::X32 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
            Arch::Arm => 0x4000_0028,
        }
    }

    /// Number of the system call `name`, as `seccomp_data.nr` shows it; `None` if this ABI lacks it.
    #[must_use]
    pub fn number(self, name: &str) -> Option<u32> {
        let nr = u32::try_from(table::numbers(name)?[self.column()]).ok()?;
        Some(if self == Arch::X32 { nr | X32_BIT } else { nr })
    }

    /// Name of the system call `nr`, the inverse of [`Arch::number`].
    #[must_use]
    pub fn name(self, nr: u32) -> Option<&'static str> {
        let nr = match self {
            Arch::X32 if nr & X32_BIT == 0 => return None,
            Arch::X32 => nr & !X32_BIT,
            Arch::X86_64 | Arch::X86 | Arch::Aarch64 | Arch::Arm => nr,
        };
        let nr = i32::try_from(nr).ok()?;
        table::TABLE.iter().find(|row| row.1[self.column()] == nr).map(|row| row.0)
    }

    /// Whether arguments are 32 bits wide.
    #[must_use]
    pub(super) fn narrow(self) -> bool {
        matches!(self, Arch::X86 | Arch::Arm)
    }

    /// Go's name, which profile files use in `includes` and `excludes`.
    #[must_use]
    pub(super) fn go_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::X86 => "x86",
            Arch::X32 => "x32",
            Arch::Aarch64 => "arm64",
            Arch::Arm => "arm",
        }
    }

    /// Our name for an OCI one; `None` for those without a table and for the native one.
    #[must_use]
    pub fn from_oci(arch: OciArch) -> Option<Arch> {
        Self::ALL.into_iter().find(|a| a.to_oci() == arch)
    }

    /// The OCI name.
    #[must_use]
    pub fn to_oci(self) -> OciArch {
        match self {
            Arch::X86_64 => OciArch::ScmpArchX86_64,
            Arch::X86 => OciArch::ScmpArchX86,
            Arch::X32 => OciArch::ScmpArchX32,
            Arch::Aarch64 => OciArch::ScmpArchAarch64,
            Arch::Arm => OciArch::ScmpArchArm,
        }
    }

    fn column(self) -> usize {
        self as usize
    }
}
