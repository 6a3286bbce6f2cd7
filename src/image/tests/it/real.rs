//! Debian's `docker-registry`: the distribution project's own, over HTTP, and over TLS with a password.
//! Needs the packages docker-registry and apache2-utils (htpasswd).

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use image::{ErrorKind, PushRequest};
use testkit::{Registry, wait_until};

use crate::{Bench, amd64, basic, name, noise};

/// The registry's process. It ends when dropped.
struct Real {
    child: Child,
    address: String,
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(root: &Path, tls_and_password: bool) -> Real {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let mut config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
        root.join("registry").display()
    );
    if tls_and_password {
        let keys = make_certificate(root);
        config += &format!("  tls:\n    certificate: {}\n    key: {}\n", keys.0.display(), keys.1.display());
        config +=
            &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", make_password(root).display());
    }
    let path = root.join("registry.yml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("docker-registry must be installed (Debian package docker-registry)");
    let real = Real { child, address };
    wait_until("the registry's port", Duration::from_secs(20), || {
        std::net::TcpStream::connect(&real.address).is_ok()
    });
    real
}

fn make_certificate(root: &Path) -> (PathBuf, PathBuf) {
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let paths = (root.join("certificate.pem"), root.join("key.pem"));
    std::fs::write(&paths.0, certificate.pem()).unwrap();
    std::fs::write(&paths.1, key.serialize_pem()).unwrap();
    paths
}

fn make_password(root: &Path) -> PathBuf {
    let output = Command::new("htpasswd").args(["-nbB", "user", "pass-word"]).output();
    let output = output.expect("htpasswd must be installed (Debian package apache2-utils)");
    assert!(output.status.success());
    let path = root.join("htpasswd");
    std::fs::write(&path, output.stdout).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http() {
    let (source, bench) = (Registry::start(), Bench::new());
    let layer = noise(1, 5_000_000);
    source.put_image("src", "v1", &[&layer, b"two"]);
    let (image, _) = bench.pull(&name(&source, "src:v1")).await.unwrap();
    let real = start(bench.path(), false);
    let push = PushRequest {
        reference: format!("{}/team/app:v1", real.address).parse().unwrap(),
        auth: None,
        store: bench.store.clone(),
        target: image.target.digest.clone(),
        mount_from: Vec::new(),
    };
    let client = bench.client();
    client.push(push.clone()).wait().await.unwrap();
    let mounted = PushRequest {
        reference: format!("{}/team/copy:v1", real.address).parse().unwrap(),
        mount_from: vec![push.reference.clone()],
        ..push.clone()
    };
    let mut copy = client.push(mounted);
    copy.wait().await.unwrap();
    let states: Vec<_> = copy.progress().borrow().layers.iter().map(|layer| layer.state).collect();
    assert!(states.iter().all(|state| *state == image::LayerState::Mounted), "{states:?}");

    let fresh = Bench::new();
    let digest: oci::Digest = image.layers[0].descriptor.digest.clone();
    let mut part = fresh.store.ingest(digest.as_str(), Some(&digest), Some(5_000_000)).unwrap();
    part.write_all(&layer[..1_234_567]).unwrap();
    drop(part);
    let (again, layers) = fresh.pull(&push.reference.to_string()).await.unwrap();
    assert_eq!(layers, [layer, b"two".to_vec()]);
    assert_eq!(again.target, image.target);
    assert_eq!(client.tags(&push.reference, None).await.unwrap(), ["v1"]);
    let missing = format!("{}/team/none:v1", real.address).parse().unwrap();
    let error = client.resolve(&missing, &amd64(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_with_a_password() {
    let (source, mut bench) = (Registry::start(), Bench::new());
    source.put_image("src", "v1", &[b"layer"]);
    let (image, _) = bench.pull(&name(&source, "src:v1")).await.unwrap();
    let real = start(bench.path(), true);
    let certificate = bench.path().join("certificate.pem");
    bench.hosts(
        &real.address,
        &format!("server = \"https://{}\"\nca = \"{}\"\n", real.address, certificate.display()),
    );
    let reference: oci::Reference = format!("{}/team/app:v1", real.address).parse().unwrap();
    let error = bench.pull(&reference.to_string()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    bench.config.credentials.insert(real.address.clone(), basic("user", "pass-word").auth);
    let client = bench.client();
    let push = PushRequest {
        reference: reference.clone(),
        auth: None,
        store: bench.store.clone(),
        target: image.target.digest.clone(),
        mount_from: Vec::new(),
    };
    client.push(push).wait().await.unwrap();
    let (again, _) = bench.pull(&reference.to_string()).await.unwrap();
    assert_eq!(again.target, image.target);
    client.check_auth(&real.address, &basic("user", "pass-word")).await.unwrap();
    let error = client.check_auth(&real.address, &basic("user", "wrong")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
}
