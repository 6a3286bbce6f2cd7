//! The scripts, cut off before each of their effects: the node comes up, and running them again ends where they
//! would have ended.

use anyhow::{Context, Result, ensure};
use e2e::Lab;

use crate::installer::{State, is_as_before, is_installed};
use crate::node::FakeNode;

/// More effects than any of them has: one that does not end must not run for ever.
const MOST: u32 = 400;

/// Cuts off an installation, an upgrade and the way back, and returns how often.
pub(crate) fn everywhere(lab: &Lab) -> Result<u32> {
    // Beside one another: most of the time goes by in starting programs.
    std::thread::scope(|scope| {
        let threads = [("install", install as Cut), ("upgrade", upgrade), ("uninstall", uninstall)]
            .map(|(name, cut)| scope.spawn(move || each_effect(lab, name, cut)));
        threads.into_iter().map(|thread| thread.join().expect("a check panicked")).sum()
    })
}

/// Cuts one script off before a number of effects and checks what follows; false: it has not that many.
type Cut = fn(&Lab, u32) -> Result<bool>;

fn each_effect(lab: &Lab, name: &str, cut: Cut) -> Result<u32> {
    let mut number = 1;
    while cut(lab, number).with_context(|| format!("{name}, cut off before effect {number}"))? {
        number += 1;
        ensure!(number < MOST, "{name} does not end");
    }
    ensure!(number > 10, "{name} has {number} effects only");
    Ok(number - 1)
}

/// After a power cut: the machine comes up, with a kubelet that finds its runtime.
fn boots(node: &FakeNode) -> Result<()> {
    node.boot()?;
    ensure!(node.is("units/kubelet.service.active"), "kubelet does not run: {:?}", node.units()?);
    let runs = |unit: &str| node.is(&format!("units/{unit}.service.active"));
    ensure!(runs("berth") || runs("containerd"), "no runtime runs: {:?}", node.units()?);
    Ok(())
}

/// Kubelet starts the pod again whenever it fails.
fn until_it_succeeds(node: &FakeNode, action: &str) -> Result<()> {
    for _ in 0..3 {
        if node.run(action).is_ok() {
            return Ok(());
        }
    }
    node.run(action).map(drop)
}

fn install(lab: &Lab, number: u32) -> Result<bool> {
    let node = FakeNode::new(lab, "cut-install")?;
    let before = State::of(&node)?;
    if !node.interrupt("install", number)? {
        return Ok(false);
    }
    boots(&node)?;
    until_it_succeeds(&node, "install")?;
    is_installed(&node, 1)?;
    until_it_succeeds(&node, "uninstall")?;
    is_as_before(&node, &before)?;
    Ok(true)
}

fn upgrade(lab: &Lab, number: u32) -> Result<bool> {
    let node = FakeNode::new(lab, "cut-upgrade")?;
    let before = State::of(&node)?;
    node.run("install")?;
    node.version(2)?;
    if !node.interrupt("install", number)? {
        return Ok(false);
    }
    boots(&node)?;
    until_it_succeeds(&node, "install")?;
    is_installed(&node, 2)?;
    until_it_succeeds(&node, "uninstall")?;
    is_as_before(&node, &before)?;
    Ok(true)
}

fn uninstall(lab: &Lab, number: u32) -> Result<bool> {
    let node = FakeNode::new(lab, "cut-uninstall")?;
    let before = State::of(&node)?;
    node.run("install")?;
    if !node.interrupt("uninstall", number)? {
        return Ok(false);
    }
    boots(&node)?;
    until_it_succeeds(&node, "uninstall")?;
    is_as_before(&node, &before)?;
    Ok(true)
}
