//! The Helm chart: what Helm renders, and the scripts that put Berth on a node and take it off again.

#[path = "charts/image.rs"]
mod image;
#[path = "charts/installer.rs"]
mod installer;
#[path = "charts/interrupted.rs"]
mod interrupted;
#[path = "charts/node.rs"]
mod node;
#[path = "charts/rendering.rs"]
mod rendering;

use e2e::{Lab, summarize};

#[test]
fn helm_renders_the_chart() {
    let lab = Lab::enter("charts-rendering");
    let mut checks = 0;
    for (name, check) in rendering::CHECKS {
        if let Err(error) = check(&lab) {
            panic!("{name}: {error:#}");
        }
        checks += 1;
    }
    summarize(&format!("chart, rendered: {checks} passed, 0 failed, 0 skipped"));
}

#[test]
fn the_image_has_what_is_called() {
    let lab = Lab::enter("charts-image");
    if let Err(error) = image::check(&lab) {
        panic!("{error:#}");
    }
    summarize("chart, the installer's image: 1 passed, 0 failed, 0 skipped");
}

#[test]
fn a_node_is_moved_and_moved_back() {
    let lab = Lab::enter("charts-installer");
    let mut checks = 0;
    for (name, check) in installer::SCENARIOS {
        if let Err(error) = check(&lab) {
            panic!("{name}: {error:#}");
        }
        checks += 1;
    }
    summarize(&format!("chart, moving a node: {checks} passed, 0 failed, 0 skipped"));
}

#[test]
fn the_scripts_can_be_cut_off_anywhere() {
    let lab = Lab::enter("charts-interrupted");
    match interrupted::everywhere(&lab) {
        Ok(count) => summarize(&format!("chart, cut off: {count} passed, 0 failed, 0 skipped")),
        Err(error) => panic!("{error:#}"),
    }
}
