//! Table and property tests of the reference parser.

use proptest::prelude::*;

use super::*;

#[test]
fn names_are_normalised() {
    for (text, normal) in [
        ("busybox", "docker.io/library/busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app"),
        ("index.docker.io/app", "docker.io/library/app"),
        ("localhost/app", "localhost/app"),
        ("localhost:5000/a/b:t", "localhost:5000/a/b:t"),
        ("registry.k8s.io/e2e-test-images/busybox:1.29-2", "registry.k8s.io/e2e-test-images/busybox:1.29-2"),
        ("[fd00::1]:5000/app", "[fd00::1]:5000/app"),
        ("[fd00::1]/app", "[fd00::1]/app"),
        ("Host/app", "Host/app"),
        ("a/b__c/d---e.f_g", "docker.io/a/b__c/d---e.f_g"),
    ] {
        assert_eq!(text.parse::<Reference>().unwrap().to_string(), normal, "{text}");
    }
}

#[test]
fn tag_and_digest_are_kept() {
    let digest = format!("sha256:{}", "1".repeat(64));
    let reference: Reference = format!("r.io/a:t@{digest}").parse().unwrap();
    assert_eq!((reference.tag(), reference.digest().unwrap().as_str()), (Some("t"), digest.as_str()));
    assert_eq!(reference.clone().with_default_tag(), reference);
    let bare: Reference = "r.io/a".parse().unwrap();
    assert_eq!(bare.with_default_tag().tag(), Some("latest"));
}

#[test]
fn familiar_names_are_dockers() {
    for (text, familiar) in
        [("docker.io/library/a:1", "a:1"), ("docker.io/u/a", "u/a"), ("quay.io/u/a", "quay.io/u/a")]
    {
        assert_eq!(text.parse::<Reference>().unwrap().familiar(), familiar);
    }
}

#[test]
fn malformed_names_are_refused() {
    let long = format!("r.io/{}", "a".repeat(260));
    let id = "a".repeat(64);
    for bad in [
        "",
        "/",
        "a//b",
        "a/",
        "A",
        "a:",
        "a:-t",
        "a@sha256:1",
        "a b",
        "-a",
        "a.",
        "a___b",
        "a..b",
        "r.io:x/a",
        "r.io:99999/a",
        "../a",
        "[fd00/a",
        "r..io/a",
        "http://r.io/a",
        &long,
        &id,
    ] {
        assert!(bad.parse::<Reference>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn normal_form_is_a_fixed_point(text in "[a-zA-Z0-9./:_@\\[\\]-]{0,40}") {
        if let Ok(reference) = text.parse::<Reference>() {
            let again: Reference = reference.to_string().parse().unwrap();
            prop_assert_eq!(again, reference);
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in ".{0,300}") {
        drop(text.parse::<Reference>());
    }
}
