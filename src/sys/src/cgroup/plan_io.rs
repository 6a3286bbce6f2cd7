//! Writes for block devices, both versions.

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::group::{Cgroup, Place};
use super::layout::Controller;
use super::plan::Plan;
use super::{Error, files};

/// Which limit: the field, v1's file and v2's key.
const THROTTLES: [(&str, &str, &str); 4] = [
    ("blockIO.throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("blockIO.throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("blockIO.throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("blockIO.throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
];

pub(super) fn block_io(plan: &mut Plan, group: &Cgroup, io: &LinuxBlockIo) -> Result<(), Error> {
    weights(plan, group, io)?;
    let lists = [
        io.throttle_read_bps_device(),
        io.throttle_write_bps_device(),
        io.throttle_read_iops_device(),
        io.throttle_write_iops_device(),
    ];
    for (throttle, list) in THROTTLES.into_iter().zip(lists) {
        for device in list.iter().flatten() {
            let place = group.require(Controller::Io, throttle.0)?;
            push_throttle(plan, place, throttle, device)?;
        }
    }
    Ok(())
}

fn push_throttle(
    plan: &mut Plan,
    place: Place<'_>,
    throttle: (&str, &str, &str),
    device: &LinuxThrottleDevice,
) -> Result<(), Error> {
    let (field, file, key) = throttle;
    let (id, rate) = (format!("{}:{}", device.major(), device.minor()), device.rate());
    match place {
        // 0 takes the limit away.
        Place::V1(dir) => {
            let none = format!("{id} 0");
            plan.push_line(Controller::Io, field, dir.join(file), (&id, &none), format!("{id} {rate}"))
        }
        Place::V2(dir) => {
            let none = format!("{id} rbps=max wbps=max riops=max wiops=max");
            let rate = if rate == 0 { "max".to_owned() } else { rate.to_string() };
            let value = format!("{id} {key}={rate}");
            plan.push_line(Controller::Io, field, dir.join("io.max"), (&id, &none), value)
        }
    }
}

fn weights(plan: &mut Plan, group: &Cgroup, io: &LinuxBlockIo) -> Result<(), Error> {
    if let Some(weight) = io.weight().filter(|&weight| weight != 0) {
        let place = group.require(Controller::Io, "blockIO.weight")?;
        let (file, value) = weight_file(place, weight)?;
        plan.push(Controller::Io, "blockIO.weight", place.dir().join(file), value)?;
    }
    if let Some(weight) = io.leaf_weight().filter(|&weight| weight != 0) {
        leaf_weight(plan, group, "blkio.leaf_weight", weight.to_string())?;
    }
    for device in io.weight_device().iter().flatten() {
        let id = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|&weight| weight != 0) {
            device_weight(plan, group, &id, weight)?;
        }
        if let Some(weight) = device.leaf_weight().filter(|&weight| weight != 0) {
            leaf_weight(plan, group, "blkio.leaf_weight_device", format!("{id} {weight}"))?;
        }
    }
    Ok(())
}

fn device_weight(plan: &mut Plan, group: &Cgroup, id: &str, weight: u16) -> Result<(), Error> {
    let field = "blockIO.weightDevice";
    let place = group.require(Controller::Io, field)?;
    let (file, value) = weight_file(place, weight)?;
    let (file, none) = match place {
        Place::V1(dir) => (dir.join(format!("{file}_device")), format!("{id} 0")),
        Place::V2(dir) => (dir.join(file), format!("{id} default")),
    };
    plan.push_line(Controller::Io, field, file, (id, &none), format!("{id} {value}"))
}

/// The leaf weight has no meaning on v2.
fn leaf_weight(plan: &mut Plan, group: &Cgroup, file: &str, value: String) -> Result<(), Error> {
    let field = "blockIO.leafWeight";
    match group.require(Controller::Io, field)? {
        Place::V1(dir) => plan.push(Controller::Io, field, dir.join(file), value),
        Place::V2(_) => Err(Error::Unsupported { controller: "io", field: field.to_owned() }),
    }
}

/// The file for weights, and the weight in its range. Which there is depends on the I/O scheduler.
fn weight_file(place: Place<'_>, weight: u16) -> Result<(&'static str, u64), Error> {
    if !(10..=1000).contains(&weight) {
        return Err(Error::Invalid { field: "blockIO.weight".to_owned(), value: weight.to_string() });
    }
    let weight = u64::from(weight);
    let has = |dir: &Path, file: &str| files::is_there(&dir.join(file));
    Ok(match place {
        Place::V1(dir) if has(dir, "blkio.bfq.weight") => ("blkio.bfq.weight", weight),
        Place::V1(_) => ("blkio.weight", weight),
        Place::V2(dir) if has(dir, "io.bfq.weight") => ("io.bfq.weight", weight),
        // From 10..1000 to 1..10000.
        Place::V2(_) => ("io.weight", 1 + (weight - 10) * 9999 / 990),
    })
}
