//! Parsers against recorded text, readers against ourselves.

use std::path::{Path, PathBuf};

use super::*;

const PROC: &str = "/proc";

#[test]
fn mountinfo_with_escapes_tags_and_no_tags() {
    let text = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3.sub /dev/ro\\134ot rw,errors=continue\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let mounts = MountInfo::parse(text).unwrap();
    assert_eq!(mounts[0].mount_point, PathBuf::from("/mnt 2"));
    assert_eq!(mounts[0].root, PathBuf::from("/mnt1"));
    assert_eq!(mounts[0].propagation, ["master:1", "shared:7"]);
    assert_eq!((mounts[0].major, mounts[0].minor), (98, 0));
    assert_eq!(mounts[0].fs_type, "ext3.sub");
    assert_eq!(mounts[0].source, "/dev/ro\\ot");
    assert_eq!(mounts[0].super_options, ["rw", "errors=continue"]);
    assert_eq!(mounts[1].fs_type, "cgroup2");
    assert!(mounts[1].propagation.is_empty());
    assert!(MountInfo::parse(b"36 35 98:0 / / rw").is_err());
}

#[test]
fn our_own_mount_table() {
    let mounts = MountInfo::read(Path::new("/proc/self/mountinfo")).unwrap();
    assert!(mounts.iter().any(|m| m.mount_point == Path::new("/proc") && m.fs_type == "proc"));
}

#[test]
fn ourselves() {
    let proc_root = Path::new(PROC);
    let pid = std::process::id();
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let stat = process_stat(proc_root, pid).unwrap();
    assert_eq!(stat.parent, std::os::unix::process::parent_id());
    assert!(stat.start_ticks > 0);
    assert_eq!(start_time(proc_root, pid).unwrap(), stat.start_ticks);
    let usage = usage(proc_root, &[pid, u32::MAX / 4]).unwrap();
    assert_eq!(usage.processes, 1);
    assert!(usage.threads >= 1 && usage.file_descriptors >= 1 && usage.sockets >= 1);
    let files = usage.ulimits.iter().find(|limit| limit.name == "max_open_files").unwrap();
    assert!(files.soft.unwrap() > 0);
    assert!(net_devices(proc_root, pid).unwrap().iter().any(|device| device.name == "lo"));
    assert!(!cgroups(proc_root, pid).unwrap().is_empty());
    drop(socket);
}

#[test]
fn the_machine() {
    let proc_root = Path::new(PROC);
    let memory = memory_info(proc_root).unwrap();
    assert!(memory.total_bytes > memory.free_bytes && memory.available_bytes > 0);
    assert!(online_cpus(proc_root).unwrap() >= 1);
    assert!(boot_time_ns(proc_root).unwrap() > 1_500_000_000_000_000_000);
    assert_eq!(ticks_to_ns(clock_ticks_per_second()), 1_000_000_000);
}

#[test]
fn odd_names_in_a_temporary_root() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("7");
    std::fs::create_dir_all(dir.join("net")).unwrap();
    std::fs::write(dir.join("stat"), "7 (a) b (c) R 1 7 9 0 -1 4 0 0 0 0 11 12 0 0 20 0 3 0 999 0 0")
        .unwrap();
    let stat = process_stat(root.path(), 7).unwrap();
    assert_eq!(stat.command, "a) b (c");
    assert_eq!((stat.state, stat.parent, stat.session), ('R', 1, 9));
    assert_eq!((stat.user_ticks, stat.system_ticks, stat.threads, stat.start_ticks), (11, 12, 3, 999));
    let text = "Inter-| Receive | Transmit\n face |bytes\n eth0:1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
    std::fs::write(dir.join("net/dev"), text).unwrap();
    let device = net_devices(root.path(), 7).unwrap().remove(0);
    assert_eq!((device.name.as_str(), device.rx_bytes, device.rx_dropped), ("eth0:1", 1, 4));
    assert_eq!((device.tx_bytes, device.tx_packets, device.tx_errors, device.tx_dropped), (9, 10, 11, 12));
    std::fs::write(dir.join("cgroup"), "3:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/x\n").unwrap();
    let entries = cgroups(root.path(), 7).unwrap();
    assert_eq!(entries[0].controllers, ["cpu", "cpuacct"]);
    assert_eq!(entries[0].path, "/a:b");
    assert!(entries[2].controllers.is_empty());
}
