//! The format of records is a promise to the next version.

use expect_test::expect;

use super::*;

fn record() -> Record {
    let mut record = Record::intent(&"web".parse().unwrap(), "eth0", "berth", "{}");
    record.ports = vec![PortMapping {
        host_port: 8080,
        container_port: 80,
        protocol: crate::Protocol::Tcp,
        host_ip: None,
    }];
    record.leases =
        vec![Lease { address: "10.88.0.2/16".parse().unwrap(), gateway: Some("10.88.0.1".parse().unwrap()) }];
    record.host_link = Some("bp0000000000001".to_owned());
    record.rules.addresses = vec!["10.88.0.2".parse().unwrap()];
    record.rules.published =
        vec![Published { mapping: record.ports[0].clone(), target: "10.88.0.2".parse().unwrap() }];
    record
}

#[test]
fn the_format_is_stable() {
    let text = serde_json::to_string(&record()).unwrap();
    expect![[r#"{"format":1,"sandbox":"web","ifname":"eth0","stage":"intent","conflist":"{}","network":"berth","ports":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}],"cni_args":[],"capabilities":{},"leases":[{"address":"10.88.0.2/16","gateway":"10.88.0.1"}],"host_link":"bp0000000000001","rules":{"addresses":["10.88.0.2"],"masquerade":false,"links":[],"published":[{"mapping":{"hostPort":8080,"containerPort":80,"protocol":"tcp"},"target":"10.88.0.2"}],"hairpin":false,"policy":"open","bound_mac":null}}"#]].assert_eq(&text);
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record());
}

#[test]
fn unreadable_records_are_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.save(&record()).unwrap();
    let attachments = dir.path().join("attachments");
    std::fs::write(attachments.join("torn@eth0.json"), "{\"format\":1,").unwrap();
    std::fs::copy(attachments.join("web@eth0.json"), attachments.join("other@eth0.json")).unwrap();
    assert_eq!(store.load().unwrap(), [record()]);
    let mut names: Vec<_> =
        std::fs::read_dir(&attachments).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["other@eth0.broken", "torn@eth0.broken", "web@eth0.json"]);
    store.remove(&record().key()).unwrap();
    store.remove(&record().key()).unwrap();
}
