//! Keys of images' JSON that some readers take for another key.
//!
//! Go's encoding/json, which container runtimes and registries use, takes `Layers` for `layers`, and so `layerſ` (U+017F); of
//! two such keys the last wins. A document with such a key means one thing here and another on the node, so it is refused. So
//! is a known key that occurs twice. Keys that nobody knows, and those of annotations and labels, are free.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::ImageError;

/// The known keys of an object, each with those of the object, or the objects in the list, behind it.
type Shape = &'static [(&'static str, Option<Keys>)];

/// Checks the keys of a value; of a list, those of each item.
#[derive(Clone, Copy)]
struct Keys(Shape);

/// Image manifests and indexes (image spec).
const MANIFEST: Keys = Keys(&[
    ("schemaVersion", None),
    ("mediaType", None),
    ("artifactType", None),
    ("config", Some(DESCRIPTOR)),
    ("layers", Some(DESCRIPTOR)),
    ("manifests", Some(DESCRIPTOR)),
    ("subject", Some(DESCRIPTOR)),
    ("annotations", None),
]);
const DESCRIPTOR: Keys = Keys(&[
    ("mediaType", None),
    ("digest", None),
    ("size", None),
    ("urls", None),
    ("annotations", None),
    ("data", None),
    ("artifactType", None),
    ("platform", Some(PLATFORM)),
]);
const PLATFORM: Keys = Keys(&[
    ("architecture", None),
    ("os", None),
    ("os.version", None),
    ("os.features", None),
    ("variant", None),
    ("features", None),
]);
/// Configs (image spec, and what Docker adds that a runtime takes).
const CONFIG: Keys = Keys(&[
    ("created", None),
    ("author", None),
    ("architecture", None),
    ("os", None),
    ("os.version", None),
    ("os.features", None),
    ("variant", None),
    ("config", Some(CONTAINER)),
    (ROOTFS, Some(Keys(&[("type", None), ("diff_ids", None)]))),
    ("history", Some(HISTORY)),
]);
const HISTORY: Keys = Keys(&[
    ("created", None),
    ("created_by", None),
    ("author", None),
    ("comment", None),
    ("empty_layer", None),
]);
const CONTAINER: Keys = Keys(&[
    ("User", None),
    ("ExposedPorts", None),
    ("Env", None),
    ("Entrypoint", None),
    ("Cmd", None),
    ("Volumes", None),
    ("WorkingDir", None),
    ("Labels", None),
    ("StopSignal", None),
    ("StopTimeout", None),
    ("ArgsEscaped", None),
    ("Memory", None),
    ("MemorySwap", None),
    ("CpuShares", None),
    ("Healthcheck", Some(HEALTHCHECK)),
    ("OnBuild", None),
    ("Shell", None),
]);
const HEALTHCHECK: Keys = Keys(&[
    ("Test", None),
    ("Interval", None),
    ("Timeout", None),
    ("StartPeriod", None),
    ("StartInterval", None),
    ("Retries", None),
]);
/// The key by which a config is an image's, whatever its media type says.
const ROOTFS: &str = "rootfs";

/// Checks an image manifest or an index.
pub(super) fn check_manifest(bytes: &[u8]) -> Result<(), ImageError> {
    check(MANIFEST, bytes)
}

/// Checks the config of an image.
pub(super) fn check_config(bytes: &[u8]) -> Result<(), ImageError> {
    check(CONFIG, bytes)
}

/// Reports whether a reader takes JSON for the config of an image by its content.
pub(super) fn is_image_config(bytes: &[u8]) -> bool {
    let keys: Result<std::collections::BTreeMap<String, IgnoredAny>, _> = serde_json::from_slice(bytes);
    keys.is_ok_and(|keys| keys.keys().any(|key| is_taken_for(key, ROOTFS)))
}

fn check(keys: Keys, bytes: &[u8]) -> Result<(), ImageError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    keys.deserialize(&mut reader).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => ImageError::Keys(error.to_string()),
        _ => ImageError::Json(error),
    })
}

/// Reports whether Go's encoding/json takes `key` for `known`, which is ASCII.
fn is_taken_for(key: &str, known: &str) -> bool {
    let folded = |c: char| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key.chars().map(folded).eq(known.chars().map(|c| c.to_ascii_lowercase()))
}

impl<'de> DeserializeSeed<'de> for Keys {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keys {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = vec![false; self.0.len()];
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            let found = self.0.iter().zip(&mut seen).find(|((known, _), _)| is_taken_for(&key, known));
            let Some(((known, inner), seen)) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if key != *known {
                let why = format!(
                    "key {key:?} differs from {known:?} in case only, and some readers take it for that"
                );
                return Err(A::Error::custom(why));
            }
            if std::mem::replace(seen, true) {
                return Err(A::Error::custom(format!("key {known:?} occurs twice")));
            }
            match inner {
                Some(inner) => map.next_value_seed(*inner)?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(check: fn(&[u8]) -> Result<(), ImageError>, json: &str) -> String {
        match check(json.as_bytes()) {
            Err(ImageError::Keys(why)) => why,
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn keys_in_another_case_are_refused_at_each_depth() {
        for json in [
            r#"{"layers":[],"Layers":[]}"#,
            r#"{"LAYERS":[]}"#,
            r#"{"layerſ":[]}"#,
            r#"{"\u004cayers":[]}"#,
            r#"{"Config":{}}"#,
            r#"{"Manifests":[]}"#,
            r#"{"mediatype":""}"#,
            r#"{"Subject":{}}"#,
            r#"{"artifacttype":""}"#,
            r#"{"Annotations":{}}"#,
            r#"{"schemaversion":2}"#,
            r#"{"config":{"Digest":""}}"#,
            r#"{"layers":[{},{"mediatype":""}]}"#,
            r#"{"layers":[{"URLs":[]}]}"#,
            r#"{"layers":[{"SIZE":1}]}"#,
            r#"{"layers":[{"Data":""}]}"#,
            r#"{"subject":{"DIGEST":""}}"#,
            r#"{"manifests":[{"Platform":{}}]}"#,
            r#"{"manifests":[{"platform":{"OS":""}}]}"#,
            r#"{"manifests":[{"platform":{"OS.version":""}}]}"#,
            r#"{"manifests":[{"platform":{"Variant":""}}]}"#,
        ] {
            assert!(refused(check_manifest, json).contains("in case only"), "{json}");
        }
        for json in [
            r#"{"rootFS":{}}"#,
            r#"{"rootfſ":{}}"#,
            r#"{"rootfs":{"Diff_IDs":[]}}"#,
            r#"{"rootfs":{"Type":""}}"#,
            r#"{"History":[]}"#,
            r#"{"history":[{"Empty_Layer":true}]}"#,
            r#"{"Config":{}}"#,
            r#"{"config":{"cmd":[]}}"#,
            r#"{"config":{"Wor\u212aingDir":""}}"#,
            r#"{"config":{"Healthchec\u212a":{}}}"#,
            r#"{"config":{"Healthcheck":{"test":[]}}}"#,
            r#"{"config":{"labels":{}}}"#,
            r#"{"Architecture":""}"#,
            r#"{"OS":""}"#,
        ] {
            assert!(refused(check_config, json).contains("in case only"), "{json}");
        }
    }

    #[test]
    fn known_keys_that_occur_twice_are_refused() {
        for json in [
            r#"{"layers":[],"layers":[]}"#,
            r#"{"layers":[],"layers":null}"#,
            r#"{"config":{"urls":[],"urls":[]}}"#,
            r#"{"manifests":[{"platform":{"os":"","os":""}}]}"#,
        ] {
            assert!(refused(check_manifest, json).contains("occurs twice"), "{json}");
        }
        assert!(refused(check_config, r#"{"config":{"Env":[],"Env":[]}}"#).contains("occurs twice"));
    }

    #[test]
    fn keys_that_nobody_knows_are_free() {
        let free = r#"{"x":{"Layers":1},"X":2,"annotations":{"Layers":"","layers":"","Config":""},"layers":[],
            "config":{"digest":"","x":{"DIGEST":1}},"schemaVersion":2.5,"mediaType":null,"manifests":[[{}],true,"x",-1]}"#;
        check_manifest(free.as_bytes()).expect("free keys");
        let free =
            r#"{"config":{"Labels":{"os":"","OS":""},"x":1},"id":"","ID":"","container_config":{"cmd":1}}"#;
        check_config(free.as_bytes()).expect("free keys");
        assert!(matches!(check_manifest(b"{"), Err(ImageError::Json(_))));
    }

    #[test]
    fn configs_of_images_are_known_by_their_content() {
        assert!(is_image_config(br#"{"RootFS":{}}"#));
        for other in [&b"{}"[..], b"", b"[1]", br#"{"name":"chart","Version":"1"}"#] {
            assert!(!is_image_config(other), "{other:?}");
        }
    }
}
