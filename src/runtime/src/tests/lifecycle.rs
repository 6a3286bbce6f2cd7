//! What containers are meant to do.

use super::*;

#[test]
fn a_program_runs_in_namespaces_of_its_own() {
    let mut bundle = Bundle::new();
    let ran =
        bundle.shell("echo $$; hostname; ls /proc | grep -c '^[0-9]'; readlink /proc/self/fd/0; exit 7");
    // The program itself, ls and grep.
    assert_eq!(ran, super::ran(7, "1\nberth-test\n3\n/dev/null\n"));
}

#[test]
fn standard_devices_and_links_are_there() {
    let mut bundle = Bundle::new();
    let ran = bundle.shell(
        "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done; \
         for l in fd stdin ptmx; do readlink /dev/$l; done; echo x > /dev/null; ls -l /dev/pts/ptmx | cut -c1-10",
    );
    let expected = "\
/dev/null 1:3 666
/dev/zero 1:5 666
/dev/full 1:7 666
/dev/random 1:8 666
/dev/urandom 1:9 666
/dev/tty 5:0 666
/proc/self/fd
/proc/self/fd/0
pts/ptmx
crw-rw-rw-
";
    assert_eq!(ran, super::ran(0, expected));
}

#[test]
fn masked_paths_are_empty_and_read_only_paths_are_not_writable() {
    let mut bundle = Bundle::new();
    let ran = bundle.shell(
        "cat /proc/keys /proc/timer_list; ls -A /sys/firmware; \
         echo 1 > /proc/sys/kernel/pid_max; echo 1 > /proc/sys/fs/file-max; mkdir /sys/firmware/x; echo done",
    );
    let lines: Vec<_> = ran.output.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 4, "{ran:?}");
    assert!(lines[..3].iter().all(|line| line.contains("Read-only")), "{ran:?}");
    assert_eq!(lines[3], "done");
}

#[test]
fn capabilities_are_those_asked_for_and_none_is_inheritable() {
    let mut bundle = Bundle::new();
    let script = "grep Cap /proc/self/status | tr -d '\\t'; grep NoNewPrivs /proc/self/status | tr -d '\\t'";
    let caps = "CapInh:0000000000000000\nCapPrm:00000000000000e3\nCapEff:00000000000000e3\n\
                CapBnd:00000000000000e3\nCapAmb:0000000000000000\nNoNewPrivs:1\n";
    assert_eq!(bundle.shell(script).output, caps);
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 6]});
    bundle.spec["process"]["capabilities"]["ambient"] = json!(["CAP_KILL"]);
    let caps = "CapInh:0000000000000020\nCapPrm:0000000000000020\nCapEff:0000000000000020\n\
                CapBnd:00000000000000e3\nCapAmb:0000000000000020\nNoNewPrivs:1\n";
    assert_eq!(bundle.shell(script).output, caps);
    assert_eq!(bundle.shell("id -u; id -g; id -G; umask").output, "1000\n1000\n1000 5 6\n0022\n");
}

#[test]
fn a_filter_is_installed_with_and_without_new_privileges() {
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat", "setuid", "setresuid", "capset", "fchdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
        ]
    });
    for no_new_privileges in [true, false] {
        bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        let ran = bundle.shell("grep '^Seccomp:' /proc/self/status | tr -d '\\t'; mkdir /tmp/x; grep -c . /proc/self/status >/dev/null; grep CapEff /proc/self/status | tr -d '\\t'");
        let expected = "Seccomp:2\nmkdir: can't create directory '/tmp/x': Operation not supported\nCapEff:00000000000000e3\n";
        assert_eq!(ran.output, expected, "no new privileges: {no_new_privileges}");
    }
}

#[test]
fn a_user_namespace_maps_root_to_somebody() {
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let maps = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
    bundle.spec["linux"]["uidMappings"] = maps.clone();
    bundle.spec["linux"]["gidMappings"] = maps;
    let ran = bundle.shell("id -u; cat /proc/self/uid_map | tr -s ' '; stat -c %u /dev/shm /proc/1; echo x > /dev/null; stat -c %u /bin/busybox; echo $$");
    assert_eq!(ran, super::ran(0, "0\n 0 100000 65536\n0\n0\n65534\n1\n"));
}

#[test]
fn bind_mounts_take_their_options() {
    let mut bundle = Bundle::new();
    let source = bundle.path.join("volume");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(bundle.path.join("file"), "content").unwrap();
    let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
    mounts.push(
        json!({"destination": "/data/rw", "type": "bind", "source": source, "options": ["rbind", "rw"]}),
    );
    mounts.push(json!({"destination": "/data/ro", "type": "bind", "source": source, "options": ["rbind", "rro", "noexec"]}));
    mounts.push(json!({"destination": "/new/file", "type": "bind", "source": bundle.path.join("file"), "options": ["bind", "ro"]}));
    let ran = bundle.shell("echo x > /data/rw/one && cat /data/ro/one /new/file; echo y > /data/ro/two; grep -c ' /data/ro ro,.*noexec' /proc/self/mountinfo");
    assert_eq!(ran.output, "x\ncontentsh: can't create /data/ro/two: Read-only file system\n1\n");
    assert!(source.join("one").is_file());
}

#[test]
fn an_idmapped_mount_shows_other_owners() {
    let mut bundle = Bundle::new();
    let source = bundle.path.join("volume");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "").unwrap();
    let maps = json!([{"containerID": 0, "hostID": 5000, "size": 1000}]);
    bundle.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/data", "type": "bind", "source": source, "options": ["bind", "idmap"],
        "uidMappings": maps, "gidMappings": maps,
    }));
    let ran = bundle.shell("stat -c %u:%g /data/file");
    assert_eq!(ran, super::ran(0, "5000:5000\n"));
}

#[test]
fn a_missing_program_and_one_that_cannot_run_are_told_apart() {
    let mut bundle = Bundle::new();
    std::fs::write(bundle.rootfs().join("etc/data"), "").unwrap();
    for (program, kind, code) in [
        ("missing", ErrorKind::ProgramNotFound, 127),
        ("/etc/data", ErrorKind::NotExecutable, 126),
        ("/none", ErrorKind::ProgramNotFound, 127),
    ] {
        bundle.spec["process"]["args"] = json!([program]);
        let spec = bundle.spec();
        let (_reader, writer) = pipe();
        let mut child = bundle.spawn(&spec, &[], &writer, Vec::new());
        assert_eq!(settle(&mut child).unwrap_err().kind, kind);
        assert_eq!(sys::pidfd::wait_blocking(child.pidfd.as_fd()).unwrap().code(), code);
    }
}

#[test]
fn a_missing_working_directory_is_made() {
    let mut bundle = Bundle::new();
    bundle.spec["process"]["cwd"] = json!("/made/for/it");
    assert_eq!(bundle.shell("pwd").output, "/made/for/it\n");
}

#[test]
fn kernel_parameters_of_own_namespaces_are_set_and_others_refused() {
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["sysctl"] =
        json!({"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"});
    let ran =
        bundle.shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced");
    assert_eq!(ran.output, "80\n1\n");
    bundle.spec["linux"]["sysctl"] = json!({"kernel.pid_max": "100"});
    let spec = bundle.spec();
    let null = File::open("/dev/null").unwrap();
    let host = Host::default();
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
    assert!(matches!(plan(&request, &mut SeccompCache::default()), Err(PlanError::Invalid(_))));
}

/// A container that waits, a process in it, and what that process wrote.
fn exec_in(bundle: &mut Bundle, join: Vec<(Kind, std::os::fd::BorrowedFd<'_>)>, process: Value) -> Ran {
    bundle.spec["process"]["args"] = json!(["sleep", "1000"]);
    let spec = bundle.spec();
    let (_reader, writer) = pipe();
    let mut child = bundle.spawn(&spec, &[], &writer, join);
    settle(&mut child).unwrap();
    let process = serde_json::from_value(process).unwrap();
    let (mut reader, writer) = pipe();
    let null = File::open("/dev/null").unwrap();
    let host = Host::detect().unwrap();
    let request = ExecRequest {
        pid: child.pid,
        pidfd: child.pidfd.as_fd(),
        process: &process,
        spec: &spec,
        cgroups: Vec::new(),
        stdio: Stdio::Fds { stdin: null.as_fd(), stdout: writer.as_fd(), stderr: writer.as_fd() },
        env_bytes: &[b"ODD=\xff".to_vec()],
        preserve_fds: 0,
        keyring: None,
        host: &host,
    };
    let mut session = plan_exec(&request, &mut SeccompCache::default()).unwrap().spawn().unwrap();
    let settled = settle(&mut session);
    drop(writer);
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    let code = sys::pidfd::wait_blocking(session.pidfd.as_fd()).unwrap().code();
    sys::pidfd::signal(child.pidfd.as_fd(), 9).unwrap();
    sys::pidfd::wait_blocking(child.pidfd.as_fd()).unwrap();
    settled.unwrap();
    Ran { code, output }
}

#[test]
fn another_process_joins_a_container() {
    let mut bundle = Bundle::new();
    let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/tmp", "env": ["PATH=/bin"], "noNewPrivileges": true,
        "args": ["sh", "-c", "pwd; hostname; ls /proc | grep -c '^[0-9]'; grep CapEff /proc/self/status | tr -d '\\t'; exit 9"]});
    // The first process, the shell, ls and grep.
    let expected = "/tmp\nberth-test\n4\nCapEff:00000000000000e3\n";
    assert_eq!(exec_in(&mut bundle, Vec::new(), process), super::ran(9, expected));
}

#[test]
fn namespaces_of_a_sandbox_are_made_kept_and_joined() {
    let request = NamespaceRequest {
        net: true,
        ipc: true,
        uts: true,
        pid: true,
        hostname: Some("sandbox".into()),
        sysctls: [("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())].into(),
        user: Some(IdMaps {
            uids: vec![IdMap { container_id: 0, host_id: 200_000, size: 65_536 }],
            gids: vec![IdMap { container_id: 0, host_id: 200_000, size: 65_536 }],
        }),
        ..NamespaceRequest::default()
    };
    let mut maker = namespaces(&request).unwrap();
    let made = maker.wait_blocking().unwrap();
    assert!(made.has_init);
    let join: Vec<_> = made.namespaces.iter().map(|(kind, fd)| (*kind, fd.as_fd())).collect();
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}]);
    bundle.spec.as_object_mut().unwrap().remove("hostname");
    let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"],
        "args": ["sh", "-c", "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; cat /proc/1/comm; tr -s ' ' < /proc/self/uid_map | cut -c2-; readlink /proc/1/exe"]});
    let ran = exec_in(&mut bundle, join, process);
    assert_eq!(ran.output, "sandbox\n0\nmemfd:berth-ini\n0 200000 65536\n");
    sys::pidfd::signal(maker.pidfd.as_fd(), 15).unwrap();
    assert_eq!(sys::pidfd::wait_blocking(maker.pidfd.as_fd()).unwrap().code(), 0);
}

#[test]
fn namespaces_without_a_process_stay_while_they_are_held() {
    let request = NamespaceRequest {
        net: true,
        uts: true,
        hostname: Some("held".into()),
        ..NamespaceRequest::default()
    };
    let mut maker = namespaces(&request).unwrap();
    let made = maker.wait_blocking().unwrap();
    assert_eq!(sys::pidfd::wait_blocking(maker.pidfd.as_fd()).unwrap().code(), 0);
    let join: Vec<_> = made.namespaces.iter().map(|(kind, fd)| (*kind, fd.as_fd())).collect();
    let mut bundle = Bundle::new();
    bundle.spec.as_object_mut().unwrap().remove("hostname");
    bundle.spec["process"]["args"] = json!(["hostname"]);
    let (mut reader, writer) = pipe();
    let spec = bundle.spec();
    let mut child = bundle.spawn(&spec, &[], &writer, join);
    drop(writer);
    settle(&mut child).unwrap();
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert_eq!(output, "held\n");
    sys::pidfd::wait_blocking(child.pidfd.as_fd()).unwrap();
}

#[test]
fn a_terminal_comes_from_the_container() {
    let mut bundle = Bundle::new();
    bundle.spec["process"]["args"] =
        json!(["sh", "-c", "tty; stat -c '%t' /dev/console; stty size 2>/dev/null || busybox stty size"]);
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
        stdio: Stdio::Terminal { columns: 100, rows: 30 },
        env_bytes: &[],
        program: None,
        hold: Hold::UntilStarted,
        preserve_fds: 0,
        keyring: None,
        host: &host,
    };
    let mut child = plan(&request, &mut SeccompCache::default()).unwrap().spawn().unwrap();
    assert_eq!(child.wait_blocking().unwrap(), Progress::NeedsStart);
    let mut master = File::from(child.take_console().expect("the terminal came before the program"));
    child.start().unwrap();
    assert_eq!(child.wait_blocking().unwrap(), Progress::Running);
    assert_eq!(sys::pidfd::wait_blocking(child.pidfd.as_fd()).unwrap().code(), 0);
    let mut output = Vec::new();
    // The end of a terminal's output is EIO.
    let _ = master.read_to_end(&mut output);
    assert_eq!(String::from_utf8(output).unwrap(), "/dev/pts/0\r\n88\r\n30 100\r\n");
}

#[test]
fn the_root_can_be_read_only_and_shared() {
    let mut bundle = Bundle::new();
    bundle.spec["root"]["readonly"] = json!(true);
    bundle.spec["linux"]["rootfsPropagation"] = json!("shared");
    let ran = bundle.shell(
        "echo x > /etc/x; grep -c ' / / ro.* shared:' /proc/self/mountinfo || cat /proc/self/mountinfo",
    );
    assert!(ran.output.starts_with("sh: can't create /etc/x: Read-only file system\n"), "{ran:?}");
}

#[test]
fn attributes_of_the_process_are_those_asked_for() {
    let mut bundle = Bundle::new();
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "time"}));
    bundle.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 100_000_000}});
    bundle.spec["linux"]["personality"] = json!({"domain": "LINUX32"});
    bundle.spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
    bundle.spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
    bundle.spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    let ran = bundle.shell(
        "cat /proc/self/personality; grep -c 'bind.*:0' /proc/self/numa_maps >/dev/null && echo bound; \
         cut -d' ' -f1 /proc/uptime | cut -d. -f1; cut -d' ' -f19,41 /proc/self/stat; ionice -p 1",
    );
    let lines: Vec<&str> = ran.output.lines().collect();
    assert_eq!(lines.len(), 5, "{ran:?}");
    assert_eq!((lines[0], lines[1]), ("00000008", "bound"), "{ran:?}");
    assert!(lines[2].parse::<u64>().unwrap() > 100_000_000, "{ran:?}");
    // SCHED_BATCH is 3.
    assert_eq!((lines[3], lines[4]), ("7 3", "idle"), "{ran:?}");
}
