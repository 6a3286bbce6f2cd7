//! Compiled seccomp filters, kept so that a profile is compiled once.

use std::collections::HashMap;

use oci::runtime::LinuxSeccomp;
use sys::seccomp::{Error, Program};

/// How many filters are kept; a node uses few profiles.
const CAPACITY: usize = 64;

/// Compiled filters by profile.
#[derive(Debug, Default)]
pub struct SeccompCache {
    programs: HashMap<Vec<u8>, Program>,
}

impl SeccompCache {
    /// The filter for a profile.
    pub fn program(&mut self, profile: &LinuxSeccomp) -> Result<Program, Error> {
        let Ok(key) = serde_json::to_vec(profile) else { return sys::seccomp::compile(profile) };
        if let Some(program) = self.programs.get(&key) {
            return Ok(program.clone());
        }
        let program = sys::seccomp::compile(profile)?;
        if self.programs.len() >= CAPACITY {
            self.programs.clear();
        }
        self.programs.insert(key, program.clone());
        Ok(program)
    }
}
