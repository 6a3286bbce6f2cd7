//! What tests of whole engines share: a keeper, a configuration, a host of their own. They need root.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::config::*;

/// Tells the test that is run again where its directory is.
pub(crate) const WORLD: &str = "BERTH_TEST_WORLD";
const KEEPER: &str = "BERTH_TEST_KEEPER";

/// This program again, to run one test; `program` runs it.
fn own(test: &str, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    command
}

/// Runs `story` with a keeper, on a host of its own: the test of this name runs itself again in other namespaces.
pub(crate) fn in_world<F: Future<Output = ()>>(test: &str, story: impl FnOnce(std::path::PathBuf) -> F) {
    let Some(dir) = std::env::var_os(WORLD) else {
        let dir = tempfile::Builder::new().prefix("berth-test-engine").tempdir().unwrap();
        // Whatever the test starts ends with it.
        let args =
            ["--mount", "--net", "--pid", "--fork", "--mount-proc", "--propagation=private", "--kill-child"];
        let mut command = own(test, "unshare", &args);
        assert!(command.env(WORLD, dir.path()).status().unwrap().success());
        return;
    };
    Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    let dir = std::path::PathBuf::from(dir);
    let keeper = Keeper::start(&dir);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(story(dir))));
    // A story that broke off leaves tasks that nobody ends.
    runtime.shutdown_background();
    drop(keeper);
    told.unwrap();
}

/// Waits until `check` finds something.
pub(crate) fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A keeper in a process of its own, ended with this.
struct Keeper(Child);

impl Keeper {
    fn start(dir: &Path) -> Self {
        // A keeper waits for this signal, which must not go to another thread of the program it is in here.
        let mut command = own("testing::a_keeper_can_be_run", "env", &["--block-signal=CHLD"]);
        let child = command.env(KEEPER, dir).spawn().unwrap();
        let keeper = Self(child);
        wait_for("the keeper's socket", || dir.join("keeper.sock").try_exists().unwrap().then_some(()));
        keeper
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_keeper_can_be_run() {
    if let Some(dir) = std::env::var_os(KEEPER) {
        let dir = std::path::PathBuf::from(dir);
        let options = keeper::Options {
            socket: dir.join("keeper.sock"),
            state: dir.join("keeper"),
            log_level: keeper::LogLevel::default(),
        };
        keeper::run(options).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = Keeper::start(dir.path());
    assert!(keeper.0.try_wait().unwrap().is_none(), "it serves until it is ended");
}

/// A configuration with everything below `dir`, and a cgroup of the test's own.
pub(crate) fn config(dir: &Path, cgroup: &str) -> Config {
    Config {
        root: dir.join("root"),
        state: dir.join("state"),
        keeper_socket: dir.join("keeper.sock"),
        keeper_program: None,
        cgroups: CgroupConfig {
            root: "/sys/fs/cgroup".into(),
            driver: CgroupDriver::Cgroupfs,
            default_parent: cgroup.into(),
        },
        handlers: [("berth".to_owned(), Handler::default())].into(),
        default_handler: "berth".into(),
        network: NetworkConfig {
            conf_dir: dir.join("net.d"),
            bin_dirs: Vec::new(),
            default_subnets: vec!["10.88.0.0/16".into()],
            plugin_timeout: Duration::from_secs(10),
            user: UserNetworkDefaults::default(),
        },
        images: ImageConfig {
            registry_config_dir: None,
            credentials: std::collections::BTreeMap::new(),
            max_concurrent_downloads: 1,
            progress_timeout: Duration::from_secs(10),
            pinned: Vec::new(),
            discard_unpacked_layers: false,
        },
        containers: ContainerDefaults {
            seccomp_profile: None,
            seccomp_dir: dir.join("seccomp"),
            cdi_dirs: Vec::new(),
            capabilities: Vec::new(),
            shm_size_bytes: 1 << 20,
            unprivileged_ports: true,
            nofile: None,
            selinux: false,
        },
    }
}
