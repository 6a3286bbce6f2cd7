//! The installer's image: Berth itself runs it, and everything that the scripts call is in it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::image::Compression;
use e2e::installer::{Parts, write};
use e2e::{Lab, Node, NodeOptions, checkout, container, log_messages, pod, run, wait_until};

const NAME: &str = "berth.local/installer:suite";

/// Every program that is called by the scripts: a list that is held against their text.
const PROGRAMS: &str = "awk cat chmod cmp cp cut dirname find grep head kubectl mkdir mv nsenter rm rmdir sed sh sha256sum \
                        sleep sort stat tr";

/// Builds it and runs it.
pub(crate) fn check(lab: &Lab) -> Result<()> {
    let directory =
        |path: std::path::PathBuf| path.parent().map(ToOwned::to_owned).context("a program in no directory");
    let parts = Parts {
        programs: directory(Lab::binary("berth")?)?,
        tools: directory(Lab::tool("kubectl")?)?,
        // Compressing takes minutes without optimisation.
        compression: Compression::None,
    };
    let archive = lab.work().join("installer.tar");
    write(&parts, NAME, &archive)?;
    let node = Node::start(lab, "image", None, NodeOptions::default())?;
    let mut load = Command::new(Lab::binary("berth")?);
    load.args(["image", "load", "--input"]).arg(&archive);
    run(load.arg("--socket").arg(node.state().join("admin.sock")))?;
    std::fs::remove_file(&archive)?;

    let scripts = ["host.sh", "install.sh"]
        .map(|name| std::fs::read_to_string(checkout().join("charts/berth/files").join(name)));
    let [host, install] = scripts;
    let text = host? + &install?;
    for program in PROGRAMS.split_whitespace() {
        ensure!(text.contains(program), "the scripts do not call {program}");
    }
    let command = format!(
        "for program in {PROGRAMS}; do command -v $program >/dev/null || echo no $program; done\n\
         kubectl version --client | head -n 1\n\
         /berth/crictl --version\n\
         cat /berth/programs/* | sha256sum\n\
         ls /berth/units\n\
         sh /script/install.sh nonsense 2>&1"
    );
    let config = pod("installer", node.logs());
    let sandbox = node.client.run_pod(&config)?;
    let mut main = container("main", NAME, &["sh", "-c", &command]);
    main.mounts.push(cri::Mount {
        container_path: "/script".to_owned(),
        host_path: checkout().join("charts/berth/files").display().to_string(),
        readonly: true,
        ..Default::default()
    });
    let id = node.client.run(&sandbox, &config, &main)?;
    wait_until("the container to end", Duration::from_secs(30), || node.client.has_exited(&id));
    let said = log_messages(&node.logs().join("main.log"))?.join("\n");
    let mut sum = Command::new("sh");
    sum.args(["-c", "cat berth berth-keeper berth-runtime | sha256sum"]).current_dir(&parts.programs);
    for wanted in [
        "Client Version: v1.",
        "crictl version v1.",
        run(&mut sum)?.trim(),
        "berth-keeper.service\nberth.service",
        "usage: install.sh install|uninstall|stay",
    ] {
        ensure!(said.contains(wanted), "no {wanted:?} in {said}");
    }
    ensure!(!said.contains("no "), "{said}");
    Ok(())
}
