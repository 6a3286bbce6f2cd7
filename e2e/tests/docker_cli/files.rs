//! Volumes, and files in and out of containers.

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;

use crate::Script;

pub(crate) fn steps(script: &mut Script) {
    volumes(script);
    mounts(script);
    copies(script);
}

/// Runs a shell in a container that goes away.
fn shell(script: &Script, options: &[&str], text: &str) -> Result<String> {
    let mut arguments = vec!["run", "--rm"];
    arguments.extend(options);
    arguments.extend([BUSYBOX, "sh", "-c", text]);
    script.docker(&arguments)
}

fn volumes(script: &mut Script) {
    script.step("volumes are made, listed and described", |script| {
        ensure!(script.docker(&["volume", "create", "--label", "a=b", "data"])? == "data");
        ensure!(script.docker(&["volume", "create", "data"])? == "data");
        let volume = script.json(&["volume", "inspect", "data"])?[0].clone();
        ensure!(volume["Driver"] == "local" && volume["Labels"]["a"] == "b", "{volume}");
        ensure!(script.docker(&["volume", "ls", "-q", "--filter", "label=a=b"])? == "data");
        script.fails(&["volume", "inspect", "nothing"], "no such volume")?;
        script.fails(&["volume", "create", "a/b"], "includes invalid characters for a local volume name")?;
        script.fails(&["volume", "create", "-d", "nobody", "remote"], "plugin \"nobody\" not found")
    });
    script.step("a volume keeps what containers write", |script| {
        shell(script, &["-v", "data:/data"], "echo kept > /data/file")?;
        ensure!(shell(script, &["-v", "data:/other:ro"], "cat /other/file")? == "kept");
        let refused = shell(script, &["-v", "data:/data:ro"], "echo no > /data/file");
        ensure!(refused.is_err(), "a read-only volume was written to");
        script.docker(&["create", "--name", "user", "-v", "data:/data", BUSYBOX, "true"])?;
        let mount = script.json(&["inspect", "user"])?[0]["Mounts"][0].clone();
        ensure!(mount["Type"] == "volume" && mount["Name"] == "data" && mount["RW"] == true, "{mount}");
        script.fails(&["volume", "rm", "data"], "volume is in use")?;
        ensure!(shell(script, &["--volumes-from", "user:ro"], "cat /data/file")? == "kept");
        script.docker(&["rm", "user"])?;
        script.docker(&["volume", "rm", "data"])?;
        script.fails(&["volume", "inspect", "data"], "no such volume")
    });
    script.step(
        "an empty volume is filled from the image, and an anonymous one goes with its container",
        |script| {
            let listed = shell(script, &["-v", "filled:/bin"], "ls /bin | grep -c .")?;
            ensure!(listed.parse::<u32>()? > 0, "{listed}");
            ensure!(!script.docker(&["volume", "ls", "-q", "--filter", "name=filled"])?.is_empty());
            script.docker(&[
                "run",
                "--name",
                "anonymous",
                "-v",
                "/scratch",
                BUSYBOX,
                "touch",
                "/scratch/x",
            ])?;
            let before = script.docker(&["volume", "ls", "-q"])?.lines().count();
            script.docker(&["rm", "-v", "anonymous"])?;
            ensure!(script.docker(&["volume", "ls", "-q"])?.lines().count() + 1 == before);
            let pruned = script.docker(&["volume", "prune", "-f", "-a"])?;
            ensure!(pruned.contains("filled"), "{pruned}");
            ensure!(script.docker(&["volume", "ls", "-q"])?.is_empty());
            Ok(())
        },
    );
}

fn mounts(script: &mut Script) {
    script.step("directories of the host and memory are mounted", |script| {
        let dir = script.dir.join("given");
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("hello"), "from the host")?;
        let bind = format!("{}:/given:ro", dir.display());
        ensure!(shell(script, &["-v", &bind], "cat /given/hello")? == "from the host");
        let missing = format!("type=bind,source={}/missing,target=/x", script.dir.display());
        script.fails(
            &["run", "--rm", "--mount", &missing, BUSYBOX, "true"],
            "bind source path does not exist",
        )?;
        let of = "mount | grep ' /t '";
        let short = shell(script, &["--tmpfs", "/t:size=1m,mode=1770"], of)?;
        ensure!(short.starts_with("tmpfs on /t") && short.contains("size=1024k"), "{short}");
        let long = shell(script, &["--mount", "type=tmpfs,target=/t,tmpfs-size=2m"], of)?;
        ensure!(long.contains("size=2048k"), "{long}");
        Ok(())
    });
}

fn copies(script: &mut Script) {
    script.step("files are copied in and out", |script| {
        let inside = script.dir.join("copied");
        std::fs::create_dir_all(inside.join("sub"))?;
        std::fs::write(inside.join("sub/file"), "copied in")?;
        script.docker(&["run", "-d", "--name", "files", BUSYBOX, "sleep", "1000"])?;
        script.docker(&["cp", &inside.display().to_string(), "files:/srv"])?;
        ensure!(script.docker(&["exec", "files", "cat", "/srv/sub/file"])? == "copied in");
        script.docker(&["exec", "files", "sh", "-c", "echo made > /made; ln -s /made /link"])?;
        let out = script.dir.join("out");
        script.docker(&["cp", "-L", "files:/link", &out.display().to_string()])?;
        ensure!(std::fs::read_to_string(&out)? == "made\n");
        script
            .fails(&["cp", "files:/nothing", "-"], "Could not find the file /nothing in container files")?;
        // A link that leads out of the container leads nowhere.
        script.docker(&["exec", "files", "ln", "-s", "../../../../../../etc", "/escape"])?;
        script.docker(&["stop", "-t", "0", "files"])?;
        script.docker(&["cp", "files:/srv/sub", &script.dir.join("sub").display().to_string()])?;
        ensure!(std::fs::read_to_string(script.dir.join("sub/file"))? == "copied in");
        Ok(())
    });
    script.step("what a container changed, and all of it", |script| {
        let changes = script.docker(&["diff", "files"])?;
        for line in ["A /made", "A /link", "A /srv"] {
            ensure!(changes.lines().any(|one| one == line), "no {line} in {changes}");
        }
        let archive = script.dir.join("all.tar");
        script.docker(&["export", "-o", &archive.display().to_string(), "files"])?;
        let listed = e2e::run(std::process::Command::new("tar").arg("-tf").arg(&archive))?;
        ensure!(
            listed.lines().any(|one| one == "made") && listed.lines().any(|one| one == "srv/sub/file"),
            "{listed}"
        );
        script.docker(&["rm", "-f", "files"])?;
        Ok(())
    });
}
