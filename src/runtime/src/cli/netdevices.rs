//! Network devices of the host that a container gets (`linux.netDevices`).
//!
//! A device is moved with its new name; its permanent global addresses, which the move takes from it, are given
//! back, and it is set up. It goes with its namespace, as the specification wants.

use std::net::IpAddr;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use oci::runtime::{LinuxNetDevice, Spec};
use sys::netlink::{AddressFlags, Batch, LinkChange, LinkRef, Route};
use sys::ns::Kind;

fn devices(spec: &Spec) -> Vec<(&String, &LinuxNetDevice)> {
    let linux = spec.linux().as_ref();
    let mut devices: Vec<_> =
        linux.and_then(|linux| linux.net_devices().as_ref()).into_iter().flatten().collect();
    devices.sort_by_key(|(name, _)| name.as_str());
    devices
}

/// Whether the container gets any.
pub(super) fn any(spec: &Spec) -> bool {
    !devices(spec).is_empty()
}

/// Moves them into the network namespace of a process.
pub(super) fn hand_over(spec: &Spec, pid: u32) -> Result<()> {
    for (name, device) in devices(spec) {
        let new_name = device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(name);
        hand_over_one(name, new_name, pid).with_context(|| format!("linux.netDevices: {name}"))?;
    }
    Ok(())
}

fn hand_over_one(name: &str, new_name: &str, pid: u32) -> Result<()> {
    /// `IFA_F_PERMANENT`, and the scope of the whole world.
    const PERMANENT: u32 = 0x80;
    let namespace = sys::ns::open_of(pid, Kind::Net).context("open the container's network namespace")?;
    let mut route = Route::open().context("open a netlink socket")?;
    let link = route.link(name).context("look for the device")?;
    let link = link.with_context(|| format!("there is no network device {name}"))?;
    let addresses: Vec<(IpAddr, u8)> = route
        .addresses()
        .context("list addresses")?
        .into_iter()
        .filter(|address| address.link == link.index && address.scope == 0 && address.flags & PERMANENT != 0)
        .map(|address| (address.address, address.prefix_len))
        .collect();
    let names = || -> Result<Vec<(u32, String)>> {
        let mut route = Route::open().context("open a netlink socket")?;
        let links = route.links().context("list the container's devices")?;
        Ok(links.into_iter().map(|link| (link.index, link.name)).collect())
    };
    let before = sys::ns::in_netns(namespace.as_fd(), names).context("enter the namespace")??;
    let mut batch = Batch::new();
    batch.move_to(LinkRef::Index(link.index), namespace.as_fd(), new_name);
    route.apply(batch).with_context(|| format!("move it to the container as {new_name}"))?;
    let settle = || -> Result<()> {
        // The kernel chooses the name if it was a template, and the index in any case.
        let after = names()?;
        let (index, name) =
            after.iter().find(|link| !before.contains(link)).context("it did not arrive in the container")?;
        let mut batch = Batch::new();
        batch.change(LinkRef::Index(*index), LinkChange { up: true, ..LinkChange::default() });
        for address in &addresses {
            batch.address(*index, *address, AddressFlags { may_exist: true, ..AddressFlags::default() });
        }
        let mut route = Route::open().context("open a netlink socket")?;
        route.apply(batch).with_context(|| format!("set up {name} in the container"))
    };
    sys::ns::in_netns(namespace.as_fd(), settle).context("enter the namespace")?
}
