//! Addresses that a chart's `values.schema.json` needs. helm loads them while it renders, over HTTP or from this machine's
//! files: a chart must not make it, and at the site nobody answers.

use std::collections::BTreeSet;

use serde_json::Value;

/// Keys whose text names another schema.
const REFERENCES: [&str; 4] = ["$ref", "$dynamicRef", "$recursiveRef", "$schema"];
/// Schemas that helm's validator has in itself, without the scheme in front.
const BUILT_IN: [&str; 6] = [
    "json-schema.org/schema",
    "json-schema.org/draft-04/schema",
    "json-schema.org/draft-06/schema",
    "json-schema.org/draft-07/schema",
    "json-schema.org/draft/2019-09/schema",
    "json-schema.org/draft/2020-12/schema",
];

/// Lists what a schema needs beside itself. A schema that can't be read here is one item: Go reads more than this does, such as
/// text that is not UTF-8 and deeper nesting, so helm might find an address in it.
pub(super) fn needs(schema: &[u8]) -> Vec<String> {
    let mut found = BTreeSet::new();
    match serde_json::from_slice(schema) {
        Ok(schema) => collect(&schema, &mut found),
        Err(error) => {
            found.insert(format!("unreadable, {error}"));
        }
    }
    found.into_iter().collect()
}

fn collect(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(address)
                        if REFERENCES.contains(&key.as_str())
                            && !address.is_empty()
                            && !address.starts_with('#')
                            && !is_built_in(address) =>
                    {
                        found.insert(address.clone());
                    }
                    _ => collect(value, found),
                }
            }
        }
        _ => {}
    }
}

fn is_built_in(address: &str) -> bool {
    let place = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://"));
    let place = place.map(|place| place.split_once('#').map_or(place, |(place, _)| place));
    place.is_some_and(|place| BUILT_IN.contains(&place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_needs_what_is_not_in_it() {
        for (schema, expected) in [
            (
                r##"{"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/a"}"##,
                &[][..],
            ),
            (r#"{"$schema": "https://json-schema.org/draft/2020-12/schema"}"#, &[]),
            (r#"{"properties": {"$ref": {"type": "string"}}}"#, &[]),
            (
                r##"{"a": [{"$ref": "http://h/x#/y"}], "b": {"$ref": "x.json"}}"##,
                &["http://h/x#/y", "x.json"],
            ),
            (r#"{"$ref": "file:///etc/passwd"}"#, &["file:///etc/passwd"]),
            (r#"{"$schema": "https://h/meta"}"#, &["https://h/meta"]),
            (r##"{"$dynamicRef": "urn:x#a", "$recursiveRef": "#"}"##, &["urn:x#a"]),
            (r#"{"$re\u0066": "http://h/x"}"#, &["http://h/x"]),
        ] {
            assert_eq!(needs(schema.as_bytes()), expected, "{schema}");
        }
    }

    #[test]
    fn a_schema_that_only_go_reads_needs_something() {
        let nested = format!("{{\"a\": {}1{}}}", "{\"a\": ".repeat(140), "}".repeat(140));
        let not_text = b"{\"description\": \"\xff\", \"$ref\": \"http:\\/\\/h\\/x\"}";
        for schema in [nested.as_bytes(), not_text, b"", b"{\"$ref\": \"q.json\", "] {
            let needs = needs(schema);
            assert!(needs.len() == 1 && needs[0].starts_with("unreadable, "), "{needs:?}");
        }
    }
}
