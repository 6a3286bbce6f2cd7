//! What containers must not get away with; the names are those of the published weaknesses.

use super::*;

/// A directory outside of the container whose content must not change.
struct Canary {
    path: PathBuf,
}

impl Canary {
    fn new(bundle: &Bundle) -> Canary {
        let path = bundle.path.join("canary");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), "untouched").unwrap();
        Canary { path }
    }

    fn check(&self) {
        let names: Vec<_> =
            std::fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
        assert_eq!(std::fs::read_to_string(self.path.join("file")).unwrap(), "untouched");
    }
}

fn errno_of(bundle: &Bundle) -> i32 {
    bundle.try_run().unwrap_err().errno
}

#[test]
fn cve_2024_21626_working_directory_through_an_open_file() {
    let mut bundle = Bundle::new();
    for number in 3..16 {
        bundle.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        bundle.spec["process"]["args"] = json!(["true"]);
        bundle.try_run().unwrap_err();
    }
}

#[test]
fn cve_2019_19921_proc_is_a_link() {
    let mut bundle = Bundle::new();
    let canary = Canary::new(&bundle);
    for place in ["proc", "sys"] {
        let path = bundle.rootfs().join(place);
        std::fs::remove_dir(&path).unwrap();
        symlink(&canary.path, &path).unwrap();
        bundle.spec["process"]["args"] = json!(["true"]);
        bundle.try_run().unwrap_err();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        canary.check();
    }
}

#[test]
fn cve_2019_16884_a_volume_on_proc() {
    let mut bundle = Bundle::new();
    for place in ["/proc", "/proc/self/attr", "/tmp/../proc/sys"] {
        let spec =
            json!([{"destination": place, "type": "bind", "source": bundle.path, "options": ["bind"]}]);
        bundle.spec["mounts"] = spec;
        let spec = bundle.spec();
        let host = Host::default();
        let null = File::open("/dev/null").unwrap();
        let request = Request {
            spec: &spec,
            bundle: &bundle.path,
            rootfs: Rootfs::Path(Path::new("rootfs")),
            join: Vec::new(),
            mounts: Vec::new(),
            cgroups: Vec::new(),
            idmaps: Vec::new(),
            stdio: Stdio::Fds { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() },
            env_bytes: &[],
            program: None,
            hold: Hold::No,
            preserve_fds: 0,
            keyring: None,
            host: &host,
        };
        assert!(
            matches!(plan(&request, &mut SeccompCache::default()), Err(PlanError::Invalid(_))),
            "{place}"
        );
    }
}

#[test]
fn cve_2021_30465_a_destination_that_leads_outside() {
    let mut bundle = Bundle::new();
    let canary = Canary::new(&bundle);
    let up = format!("../../../../../../../..{}", canary.path.display());
    for to in [canary.path.display().to_string(), up] {
        let link = bundle.rootfs().join("data");
        symlink(&to, &link).unwrap();
        let source = bundle.path.join("volume");
        std::fs::create_dir_all(&source).unwrap();
        let before = bundle.spec["mounts"].clone();
        bundle.spec["mounts"].as_array_mut().unwrap().push(
            json!({"destination": "/data/sub/dir", "type": "bind", "source": source, "options": ["bind"]}),
        );
        bundle.spec["process"]["args"] = json!(["true"]);
        let _ = bundle.try_run();
        canary.check();
        std::fs::remove_file(&link).unwrap();
        bundle.spec["mounts"] = before;
    }
}

#[test]
fn cve_2026_41579_dev_is_a_link() {
    let mut bundle = Bundle::new();
    let canary = Canary::new(&bundle);
    // Without a tmpfs on /dev, devices and links are made in the image's own.
    let mounts = bundle.spec["mounts"].as_array().unwrap();
    let kept: Vec<_> = mounts
        .iter()
        .filter(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"))
        .cloned()
        .collect();
    bundle.spec["mounts"] = json!(kept);
    std::fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
    symlink(&canary.path, bundle.rootfs().join("dev")).unwrap();
    bundle.try_run().unwrap_err();
    canary.check();
}

#[test]
fn cve_2026_41579_device_names_are_links() {
    let mut bundle = Bundle::new();
    let canary = Canary::new(&bundle);
    let mounts = bundle.spec["mounts"].as_array().unwrap();
    let kept: Vec<_> = mounts
        .iter()
        .filter(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"))
        .cloned()
        .collect();
    bundle.spec["mounts"] = json!(kept);
    for name in ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd"] {
        symlink(canary.path.join("file"), bundle.rootfs().join("dev").join(name)).unwrap();
    }
    let ran = bundle.shell("stat -c %t:%T /dev/null");
    assert_eq!(ran, super::ran(0, "1:3\n"));
    canary.check();
}

#[test]
fn cve_2025_31133_null_is_a_link() {
    let mut bundle = Bundle::new();
    // The image's /dev/null leads to what is masked; masks come from the host's device.
    symlink("/proc/sys/kernel/core_pattern", bundle.rootfs().join("dev/null")).unwrap();
    let ran = bundle.shell("cat /proc/keys /proc/timer_list; stat -c %t:%T /proc/keys /proc/timer_list");
    assert_eq!(ran, super::ran(0, "1:3\n1:3\n"));
}

#[test]
fn a_masked_path_that_is_a_link_stays_in_the_root() {
    let mut bundle = Bundle::new();
    let canary = Canary::new(&bundle);
    symlink(&canary.path, bundle.rootfs().join("masked")).unwrap();
    bundle.spec["linux"]["maskedPaths"].as_array_mut().unwrap().push(json!("/masked"));
    bundle.spec["linux"]["readonlyPaths"].as_array_mut().unwrap().push(json!("/masked"));
    assert_eq!(bundle.shell("true").code, 0);
    canary.check();
}

#[test]
fn nothing_of_the_host_stays_open() {
    let mut bundle = Bundle::new();
    let ran = bundle.shell("ls /proc/self/fd | tr '\\n' ' '");
    // The fourth is that of ls itself.
    assert_eq!(ran.output, "0 1 2 3 ");
}

#[test]
fn a_console_that_is_a_link_is_refused() {
    let mut bundle = Bundle::new();
    let canary = Canary::new(&bundle);
    let mounts = bundle.spec["mounts"].as_array().unwrap();
    let kept: Vec<_> =
        mounts.iter().filter(|mount| mount["destination"].as_str() != Some("/dev")).cloned().collect();
    bundle.spec["mounts"] = json!(kept);
    symlink(canary.path.join("file"), bundle.rootfs().join("dev/console")).unwrap();
    let spec = bundle.spec();
    let host = Host::detect().unwrap();
    let request = Request {
        spec: &spec,
        bundle: &bundle.path,
        rootfs: Rootfs::Path(Path::new("rootfs")),
        join: Vec::new(),
        mounts: Vec::new(),
        cgroups: Vec::new(),
        idmaps: Vec::new(),
        stdio: Stdio::Terminal { columns: 0, rows: 0 },
        env_bytes: &[],
        program: None,
        hold: Hold::No,
        preserve_fds: 0,
        keyring: None,
        host: &host,
    };
    let mut child = plan(&request, &mut SeccompCache::default()).unwrap().spawn().unwrap();
    settle(&mut child).unwrap_err();
    sys::pidfd::wait_blocking(child.pidfd.as_fd()).unwrap();
    canary.check();
}

#[test]
fn a_missing_bind_source_is_an_error_with_its_name() {
    let mut bundle = Bundle::new();
    bundle.spec["mounts"].as_array_mut().unwrap().push(
        json!({"destination": "/data", "type": "bind", "source": "/no/such/source", "options": ["bind"]}),
    );
    assert_eq!(errno_of(&bundle), 2);
    let message = bundle.try_run().unwrap_err().to_string();
    assert!(message.contains("/no/such/source"), "{message}");
}
