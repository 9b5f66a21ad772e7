use serde_json::json;

use super::*;
use crate::image::{self, OCI_INDEX, OCI_MANIFEST};

fn digest(byte: &str) -> Digest {
    format!("sha256:{}", byte.repeat(32)).parse().expect("a digest")
}

/// `redis:8` for one platform with its upstream index, and `quay.io/a/web:1` for two, as an index.
fn closure() -> Closure {
    let mut closure = Closure::default();
    let manifest = |config: &str| {
        let text = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [],
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": 2}});
        image::parse(OCI_MANIFEST, text.to_string().as_bytes()).expect("a manifest")
    };
    let index = || {
        let child = |byte: &str| json!({"mediaType": OCI_MANIFEST, "digest": digest(byte), "size": 2});
        let text =
            json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child("b1"), child("b2")]});
        image::parse(OCI_INDEX, text.to_string().as_bytes()).expect("an index")
    };
    let image = |reference: &str, byte: &str, media_type: &str, upstream: Option<&str>| Image {
        digest: digest(byte),
        media_type: media_type.into(),
        platforms: BTreeMap::new(),
        reference: reference.parse().expect("a reference"),
        repository: "x".into(),
        upstream: upstream.map(digest),
        meant_by: vec![],
        signed_by: vec![],
        attached: vec![],
    };
    let member = |byte: &str, parsed| Member { digest: digest(byte), media_type: String::new(), parsed };
    let redis = image("redis:8", "a1", OCI_MANIFEST, Some("af"));
    closure.add(&redis, vec![member("a1", manifest("ac"))]);
    let web = image("quay.io/a/web:1", "b0", OCI_INDEX, None);
    let members = [("b1", manifest("c1")), ("b2", manifest("c2")), ("b0", index())];
    closure.add(&web, members.into_iter().map(|(byte, parsed)| member(byte, parsed)).collect());
    closure
}

fn judged(image: &str, id: &str) -> (Verdict, String) {
    let mapping = Mapping::new("r.site:5000/mirror", false).expect("a mapping");
    let (verdict, why) = closure().judge(image, id, Some(&mapping));
    (verdict, why.unwrap_or_default())
}

#[test]
fn everything_that_a_runtime_may_call_an_image_is_in_its_closure() {
    let site = "r.site:5000/mirror/quay.io/a/web:1";
    for byte in ["b0", "b1", "b2", "c1", "c2"] {
        for prefix in ["", "r.site:5000/mirror/quay.io/a/web@", "docker-pullable://x/y@"] {
            let id = format!("{prefix}{}", digest(byte));
            assert_eq!(judged(site, &id), (Verdict::Signed, String::new()), "{id}");
        }
    }
    let redis = "r.site:5000/mirror/docker.io/library/redis:8";
    for byte in ["a1", "ac", "af"] {
        assert_eq!(judged(redis, &digest(byte).to_string()).0, Verdict::Signed, "{byte}");
    }
}

#[test]
fn what_is_not_signed_is_foreign_and_says_why() {
    for (image, id, verdict, why) in [
        ("busybox:1", digest("ee").to_string(), Verdict::Foreign, "it is not in the bundle"),
        (
            "redis:8",
            digest("ee").to_string(),
            Verdict::Foreign,
            "name of docker.io/library/redis:8, and other content",
        ),
        (
            "r.site:5000/mirror/quay.io/a/web:1@sha256:eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee",
            digest("ee").to_string(),
            Verdict::Foreign,
            "name of quay.io/a/web:1, and other content",
        ),
        ("redis:8", digest("b1").to_string(), Verdict::Foreign, "the content of quay.io/a/web:1"),
        ("redis:8", "docker://sha256:short".into(), Verdict::Foreign, "names no digest"),
        ("redis:8", String::new(), Verdict::Unknown, "nothing says yet"),
        // A mirror of the node leads from the source's name to the site.
        ("redis:8", digest("a1").to_string(), Verdict::Signed, "a mirror leads there"),
        // A name that nobody knows, with content that was signed.
        ("sha256:abc", digest("a1").to_string(), Verdict::Signed, ""),
    ] {
        let (found, said) = judged(image, &id);
        assert_eq!(found, verdict, "{image} {id}");
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn every_kind_of_container_is_looked_at() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {
            "initContainers": [{"name": "init", "image": "redis:8"}],
            "containers": [{"name": "app", "image": "quay.io/a/web:1"}, {"name": "late", "image": "redis:8"}],
            "ephemeralContainers": [{"name": "debug", "image": "busybox"}],
            "volumes": [{"name": "data"}, {"name": "models", "image": {"reference": "quay.io/a/web:1"}},
                        {"name": "pinned", "image": {"reference": format!("x.io/y@{}", digest("ee"))}}],
        },
        "status": {
            "phase": "Running",
            "initContainerStatuses": [{"name": "init", "imageID": digest("a1")}],
            "containerStatuses": [{"name": "app", "imageID": digest("b1"), "volumeMounts": [
                {"name": "models", "volumeStatus": {"image": {"imageRef": format!("q@{}", digest("b0"))}}}]}],
            "ephemeralContainerStatuses": [{"name": "debug", "imageID": digest("ee")}],
        },
    }))
    .expect("a pod");
    let mut found = Vec::new();
    look(&closure(), &pod, None, &mut found);
    let said: Vec<_> = found.iter().map(|looked| (looked.container.as_str(), looked.verdict)).collect();
    let expected = [
        ("init", Verdict::Signed),
        ("app", Verdict::Signed),
        ("late", Verdict::Unknown),
        ("debug", Verdict::Foreign),
        ("volume models", Verdict::Signed),
        ("volume pinned", Verdict::Foreign),
    ];
    assert_eq!(said, expected);
}
