//! Starting a container.

use std::rc::Rc;

use super::Keeper;
use super::births::{Birth, How, LogState, OwnEnds, pipes};
use super::builtin::{self, Setup, Streams};
use super::external::{External, ExternalRuntime};
use super::failure::{exists, invalid, io};
use super::reap::Owner;
use super::requests::{Attached, Client};
use crate::log::format::Channel;
use crate::log::pumps::Note;
use crate::protocol::{Failure, Runtime, Start};

impl Keeper {
    /// Begins to start a container; the client is answered when its program runs or has failed.
    pub(super) fn start(
        &mut self,
        client: Client,
        start: Start,
        mut attached: Attached,
    ) -> Result<(), Failure> {
        if self.is_used(&start.id) {
            return Err(exists(&start.id));
        }
        let mut taps = Vec::new();
        for (stdout, stderr) in &start.taps {
            taps.push((Channel::Stdout, attached.take(*stdout)?));
            taps.push((Channel::Stderr, attached.take(*stderr)?));
        }
        let number = self.number();
        let (how, stdio, setup) = match &start.runtime {
            Runtime::BuiltIn => self.start_built_in(number, &start, attached)?,
            Runtime::External { path, root, systemd_cgroup } => {
                let runtime = ExternalRuntime {
                    program: path.clone(),
                    root: root.clone(),
                    systemd_cgroup: *systemd_cgroup,
                    id: start.id.clone(),
                };
                self.create_external(number, runtime, &start)?
            }
        };
        let log = if start.log.is_some() { LogState::Opening } else { LogState::None };
        let birth = Birth {
            client,
            id: start.id,
            sandbox: start.sandbox,
            exec_in: None,
            stdio,
            log,
            setup,
            taps,
            how,
            failure: None,
        };
        self.births.insert(number, birth);
        if let Some(log) = start.log
            && let Err(error) = self.pumps.open(log, number)
        {
            self.take_note(Note::Opened { ticket: number, result: Err(error) });
        }
        Ok(())
    }

    fn start_built_in(
        &mut self,
        number: u64,
        start: &Start,
        mut attached: Attached,
    ) -> Result<(How, OwnEnds, Rc<Setup>), Failure> {
        let setup = Rc::new(setup_of(start));
        let (own, ends) = match start.stdio.terminal {
            Some(_) => (OwnEnds::default(), None),
            None => {
                let (own, ends) = pipes(&start.stdio).map_err(|error| io("create pipes", &error))?;
                (own, Some(ends))
            }
        };
        let streams = match (start.stdio.terminal, &ends) {
            (None, Some(ends)) => Streams::Pipes(ends),
            (size, _) => Streams::Terminal(size.unwrap_or_default()),
        };
        let child = builtin::start(start, &setup, streams, &mut attached, &mut self.workshop)?;
        self.owners.insert(child.pid(), Owner::Birth(number));
        let report = self.watch_report(number, &child)?;
        Ok((How::BuiltIn { child: Box::new(child), report: Some(report), set_up: false }, own, setup))
    }

    fn create_external(
        &mut self,
        number: u64,
        runtime: ExternalRuntime,
        start: &Start,
    ) -> Result<(How, OwnEnds, Rc<Setup>), Failure> {
        if start.rootfs_fd.is_some() || !start.mounts.is_empty() || !start.join.is_empty() {
            let message = "an external runtime takes root file system, mounts and namespaces from the bundle";
            return Err(invalid(message.into()));
        }
        if !start.env_bytes.is_empty() {
            return Err(invalid("an external runtime takes only environment that is UTF-8".into()));
        }
        let mut external = External::new(runtime, &self.options.state)?;
        let own = if start.stdio.terminal.is_some() {
            let command = external.create_with_terminal(&start.bundle)?;
            external.tool = Some(self.run_tool(command, super::tools::Purpose::Birth(number))?);
            OwnEnds::default()
        } else {
            let (own, ends) = pipes(&start.stdio).map_err(|error| io("create pipes", &error))?;
            let command = external.create_with_pipes(&start.bundle, ends);
            external.tool = Some(self.run_tool(command, super::tools::Purpose::Birth(number))?);
            own
        };
        Ok((How::External(Box::new(external)), own, Rc::new(setup_of(start))))
    }
}

fn setup_of(start: &Start) -> Setup {
    Setup { bundle: start.bundle.clone(), cgroups: start.cgroups.clone(), log: start.log.clone() }
}
