//! From requests to what is done.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::Keeper;
use super::failure::{invalid, not_found};
use crate::frame::Frame;
use crate::log::pumps::Command;
use crate::protocol::{
    Envelope, Failure, FailureKind, Held, HeldNamespaces, Origin, Reply, Request, Runtime, ServerMessage,
    VERSION,
};

/// Whom to answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    pub(super) connection: u64,
    pub(super) request: u64,
}

/// Descriptors that came with a request, each to be taken once.
#[derive(Debug)]
pub(super) struct Attached(Vec<Option<OwnedFd>>);

impl Attached {
    /// The descriptor at an index the request names.
    pub(super) fn take(&mut self, index: usize) -> Result<OwnedFd, Failure> {
        let fd = self.0.get_mut(index).and_then(Option::take);
        fd.ok_or_else(|| invalid(format!("no descriptor {index} is attached, or it is named twice")))
    }

    fn all(self) -> Vec<OwnedFd> {
        self.0.into_iter().flatten().collect()
    }
}

fn origin_of(process: &super::process::Process) -> Origin {
    let runtime = process.external.as_ref().map_or(Runtime::BuiltIn, |external| Runtime::External {
        path: external.program.clone(),
        root: external.root.clone(),
        systemd_cgroup: external.systemd_cgroup,
    });
    let setup = &process.setup;
    Origin { bundle: setup.bundle.clone(), runtime, cgroups: setup.cgroups.clone(), log: setup.log.clone() }
}

impl Keeper {
    pub(super) fn serve_request(&mut self, connection: u64, envelope: Envelope, frame: Frame) {
        let client = Client { connection, request: envelope.id };
        if frame.fds_lost {
            let message = "the keeper may open no more files; raise LimitNOFILE of its unit".to_owned();
            return self.fail(client, Failure { kind: FailureKind::Exhausted, message, errno: None });
        }
        let greeted = self.connections.get(&connection).is_some_and(|connection| connection.greeted);
        if !greeted && !matches!(envelope.request, Request::Hello { .. }) {
            return self.fail(client, invalid("the first request must be hello".into()));
        }
        let attached = Attached(frame.fds.into_iter().map(Some).collect());
        if super::journal::says(super::LogLevel::Debug) {
            let text =
                format!("request {} on connection {connection}: {}", client.request, envelope.request.name());
            super::journal::say(super::LogLevel::Debug, &text);
        }
        // Requests that take a while answer later; the others say what to answer now.
        let answer = match envelope.request {
            Request::Hello { version } => self.hello(connection, version).map(Some),
            Request::Subscribe => Ok(self.subscribe(connection)),
            Request::List => return self.list(client),
            Request::CreateNamespaces { key, spec } => {
                self.create_namespaces(client, key, &spec).map(|()| None)
            }
            Request::DropNamespaces { key } => self.drop_namespaces(client, &key),
            Request::Start(start) => self.start(client, *start, attached).map(|()| None),
            Request::Exec(exec) => self.exec(client, *exec, attached).map(|()| None),
            Request::Adopt(adopt) => self.adopt(client, *adopt, attached).map(|()| None),
            Request::AdoptNamespaces(adopt) => self.adopt_namespaces(adopt, attached),
            Request::Attach { id } => self.ask_pump(client, &id, |key, ticket| {
                let fds = attached.all();
                Command::Attach { key, fds, ticket }
            }),
            Request::ReopenLog { id } => {
                self.ask_pump(client, &id, |key, ticket| Command::Reopen { key, ticket })
            }
            Request::CloseStdin { id } => self.close_stdin(&id),
            Request::Release { id } => self.release(&id),
            Request::Shutdown => self.shutdown(),
            Request::Upgrade => return self.upgrade_for(client),
        };
        match answer {
            Ok(Some(reply)) => self.reply(client, reply, Vec::new()),
            Ok(None) => {}
            Err(failure) => self.fail(client, failure),
        }
    }

    pub(super) fn reply(&mut self, client: Client, reply: Reply, fds: Vec<Rc<OwnedFd>>) {
        self.send(client.connection, &ServerMessage::Reply { id: client.request, reply }, fds);
    }

    pub(super) fn fail(&mut self, client: Client, failure: Failure) {
        self.send(client.connection, &ServerMessage::Failure { id: client.request, failure }, Vec::new());
    }

    /// A pump has carried out what a client asked for.
    pub(super) fn pump_done(&mut self, ticket: u64, result: io::Result<()>) {
        let Some(client) = self.tickets.remove(&ticket) else { return };
        match result {
            Ok(()) => self.reply(client, Reply::Done, Vec::new()),
            Err(error) => self.fail(client, super::failure::io("log", &error)),
        }
    }

    fn hello(&mut self, connection: u64, version: u32) -> Result<Reply, Failure> {
        if version != VERSION && version + 1 != VERSION {
            let message = format!("protocol version {version} is not supported; the keeper speaks {VERSION}");
            return Err(invalid(message));
        }
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.greeted = true;
        }
        let release = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Reply::Hello { version: VERSION, pid: std::process::id(), release })
    }

    fn subscribe(&mut self, connection: u64) -> Option<Reply> {
        let connection = self.connections.get_mut(&connection)?;
        connection.subscribed = true;
        Some(Reply::Done)
    }

    fn list(&mut self, client: Client) {
        let mut fds: Vec<Rc<OwnedFd>> = Vec::new();
        let mut attach = |fd: &Rc<OwnedFd>| {
            fds.push(Rc::clone(fd));
            fds.len() - 1
        };
        let mut processes = Vec::new();
        for (id, process) in &self.processes {
            processes.push(Held {
                id: id.clone(),
                sandbox: process.sandbox.clone(),
                exec_in: process.exec_in.clone(),
                pid: process.pid,
                start_time: process.start_time,
                pidfd: attach(&process.pidfd),
                stdin: process.stdin.as_ref().map(&mut attach),
                terminal: process.terminal.as_ref().map(&mut attach),
                stdout: process.stdout.as_ref().map(&mut attach),
                stderr: process.stderr.as_ref().map(&mut attach),
                origin: process.exec_in.is_none().then(|| origin_of(process)),
                started_at_ns: process.started_at_ns,
                exit: process.exit,
            });
        }
        let mut namespaces = Vec::new();
        for (key, pinned) in &self.namespaces {
            let kinds = pinned.fds.iter().map(|(kind, fd)| (*kind, attach(fd))).collect();
            namespaces.push(HeldNamespaces {
                key: key.clone(),
                namespaces: kinds,
                init_pid: pinned.init_pid(),
            });
        }
        self.reply(client, Reply::List { processes, namespaces }, fds);
    }

    /// Passes a request on to the pump of a container's log.
    fn ask_pump(
        &mut self,
        client: Client,
        id: &str,
        command: impl FnOnce(u64, u64) -> Command,
    ) -> Result<Option<Reply>, Failure> {
        let ticket = self.number();
        let process = self.processes.get(id).ok_or_else(|| not_found(format!("no container {id}")))?;
        let Some(pump) = process.pump else { return Ok(Some(Reply::Done)) };
        self.pumps.tell(pump, command(process.key, ticket)).map_err(|busy| Failure {
            kind: FailureKind::Exhausted,
            message: format!("{id}: {busy}"),
            errno: None,
        })?;
        self.tickets.insert(ticket, client);
        Ok(None)
    }

    fn close_stdin(&mut self, id: &str) -> Result<Option<Reply>, Failure> {
        let process = self.processes.get_mut(id).ok_or_else(|| not_found(format!("no container {id}")))?;
        process.stdin = None;
        Ok(Some(Reply::Done))
    }

    /// Forgets what has ended; what is being started is given up.
    fn release(&mut self, id: &str) -> Result<Option<Reply>, Failure> {
        if let Some(process) = self.processes.get(id) {
            if process.exit.is_none() {
                return Err(invalid(format!("{id} still runs; kill it first")));
            }
            self.forget(id);
        }
        self.give_up(id);
        Ok(Some(Reply::Done))
    }

    fn upgrade_for(&mut self, client: Client) {
        if let Err(reason) = self.can_upgrade() {
            let failure = Failure { kind: FailureKind::Exhausted, message: reason.to_owned(), errno: None };
            return self.fail(client, failure);
        }
        self.reply(client, Reply::Done, Vec::new());
        self.flush_all();
        self.upgrade();
    }

    fn shutdown(&mut self) -> Result<Option<Reply>, Failure> {
        if !self.is_idle() {
            return Err(invalid("containers run or namespaces are held".into()));
        }
        self.stopping = true;
        Ok(Some(Reply::Done))
    }
}
