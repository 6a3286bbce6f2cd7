//! Starting one more process in a container.

use std::rc::Rc;

use super::Keeper;
use super::births::{Birth, ChildEnds, How, LogState, OwnEnds};
use super::builtin::{self, ExecIn, Streams};
use super::external::{External, ExternalRuntime};
use super::failure::{exists, invalid, not_found};
use super::reap::Owner;
use super::requests::{Attached, Client};
use super::tools::Purpose;
use crate::protocol::{Exec, Failure};

impl Keeper {
    /// Begins to start an exec session; the client is answered when its program runs or has failed.
    pub(super) fn exec(&mut self, client: Client, exec: Exec, mut attached: Attached) -> Result<(), Failure> {
        if self.is_used(&exec.id) {
            return Err(exists(&exec.id));
        }
        let container = self.processes.get(&exec.container).filter(|process| process.exec_in.is_none());
        let container = container.ok_or_else(|| not_found(format!("no container {}", exec.container)))?;
        if container.exit.is_some() || container.ending.is_some() {
            return Err(not_found(format!("container {} does not run any more", exec.container)));
        }
        let (sandbox, setup) = (container.sandbox.clone(), Rc::clone(&container.setup));
        let (pid, pidfd, runtime) = (container.pid, Rc::clone(&container.pidfd), container.external.clone());
        let ends = match exec.terminal {
            Some(_) => None,
            None => Some(ChildEnds {
                stdin: attached.take(0)?,
                stdout: attached.take(1)?,
                stderr: attached.take(2)?,
            }),
        };
        let number = self.number();
        let how = match runtime {
            Some(runtime) => self.exec_external(number, runtime, &exec, ends)?,
            None => {
                let exec_in = ExecIn { pid, pidfd: &pidfd, setup: &setup };
                self.exec_built_in(number, &exec, exec_in, ends.as_ref())?
            }
        };
        let birth = Birth {
            client,
            id: exec.id,
            sandbox,
            exec_in: Some(exec.container),
            stdio: OwnEnds::default(),
            log: LogState::None,
            setup,
            taps: Vec::new(),
            how,
            failure: None,
        };
        self.births.insert(number, birth);
        Ok(())
    }

    fn exec_built_in(
        &mut self,
        number: u64,
        exec: &Exec,
        exec_in: ExecIn<'_>,
        ends: Option<&ChildEnds>,
    ) -> Result<How, Failure> {
        let streams = match ends {
            Some(ends) => Streams::Pipes(ends),
            None => Streams::Terminal(exec.terminal.unwrap_or_default()),
        };
        let child = builtin::exec(exec, &exec_in, streams, &mut self.workshop)?;
        self.owners.insert(child.pid(), Owner::Birth(number));
        let report = self.watch_report(number, &child)?;
        Ok(How::BuiltIn { child: Box::new(child), report: Some(report), set_up: false })
    }

    fn exec_external(
        &mut self,
        number: u64,
        runtime: ExternalRuntime,
        exec: &Exec,
        ends: Option<ChildEnds>,
    ) -> Result<How, Failure> {
        if !exec.env_bytes.is_empty() {
            return Err(invalid("an external runtime takes only environment that is UTF-8".into()));
        }
        let mut external = External::new(runtime, &self.options.state)?;
        let command = external.exec(exec, ends)?;
        external.tool = Some(self.run_tool(command, Purpose::Birth(number))?);
        Ok(How::External(Box::new(external)))
    }
}
