//! What an upgrade changes: the release's manifests as they are against those to come, by content. Helm writes what it
//! keeps in its own form, so both are read, and written the same way, before lines are compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};
use similar::TextDiff;

use super::objects::Object;

/// What stands in for a Secret's value.
const HIDDEN: &str = "(hidden)";
const HIDDEN_NEW: &str = "(hidden, changed)";

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It is new.
    Added,
    /// It is another.
    Changed,
    /// It goes.
    Removed,
}

/// An object that does not stay as it is.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// What happens.
    pub what: What,
    /// `Deployment default/web`.
    pub object: String,
    /// Unified, of its YAML; values of Secrets are hidden.
    pub diff: String,
}

/// The differences, hooks aside: these are run, not kept. Objects without a namespace are in `namespace`, if in any.
#[must_use]
pub fn changes(old: &[Object], new: &[Object], namespace: &str) -> Vec<Change> {
    let by_title = |objects: &[Object]| -> BTreeMap<String, Value> {
        let kept = objects.iter().filter(|object| object.hook.is_none());
        kept.map(|object| (key(object, namespace), object.value.clone())).collect()
    };
    let (old, mut new) = (by_title(old), by_title(new));
    let mut all = Vec::new();
    for (object, before) in old {
        match new.remove(&object) {
            None => all.push(change(What::Removed, object, Some(before), None)),
            Some(after) if before == after => {}
            Some(after) => all.push(change(What::Changed, object, Some(before), Some(after))),
        }
    }
    all.extend(new.into_iter().map(|(object, after)| change(What::Added, object, None, Some(after))));
    all
}

fn key(object: &Object, namespace: &str) -> String {
    let mut named = object.clone();
    if named.namespace.as_deref() == Some(namespace) {
        named.namespace = None;
    }
    named.title()
}

fn change(what: What, object: String, mut before: Option<Value>, mut after: Option<Value>) -> Change {
    if object.starts_with("Secret ") {
        hide(&mut before, &mut after);
    }
    let text = |value: &Option<Value>| value.as_ref().map(yaml).unwrap_or_default();
    let (before, after) = (text(&before), text(&after));
    let diff = TextDiff::from_lines(&before, &after);
    let diff = diff.unified_diff().context_radius(3).header(&object, &object).to_string();
    Change { what, object, diff }
}

/// Values of a Secret are told apart, and not shown.
fn hide(before: &mut Option<Value>, after: &mut Option<Value>) {
    for field in ["data", "stringData"] {
        let old = before.as_ref().and_then(|value| value[field].as_object().cloned()).unwrap_or_default();
        let cover = |value: &mut Option<Value>, is_new: bool| {
            let Some(map) = value.as_mut().and_then(|value| value.get_mut(field)?.as_object_mut()) else {
                return;
            };
            for (name, value) in map {
                let same = !is_new || old.is_empty() || old.get(name) == Some(value);
                *value = if same { HIDDEN } else { HIDDEN_NEW }.into();
            }
        };
        cover(before, false);
        cover(after, true);
    }
}

/// Block style, keys sorted. Meant to be read, not to be parsed.
fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text
}

fn write(value: &Value, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in sorted(map) {
                let _ = write!(out, "{pad}{key}:");
                below(value, depth, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                let mut item = String::new();
                write(value, depth + 1, &mut item);
                let _ = writeln!(out, "{pad}- {}", item.trim());
            }
        }
        other => {
            let _ = writeln!(out, "{pad}{}", scalar(other, &pad));
        }
    }
}

fn below(value: &Value, depth: usize, out: &mut String) {
    let is_block = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    if is_block {
        out.push('\n');
        write(value, depth + 1, out);
    } else {
        let _ = writeln!(out, " {}", scalar(value, &"  ".repeat(depth)));
    }
}

fn scalar(value: &Value, pad: &str) -> String {
    match value {
        Value::String(text) if text.contains('\n') => {
            let lines = text.trim_end_matches('\n').split('\n').map(|line| format!("\n{pad}  {line}"));
            format!("|{}", lines.collect::<String>())
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn sorted(map: &Map<String, Value>) -> BTreeMap<&String, &Value> {
    map.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::objects::objects;
    use super::*;

    fn of(old: &str, new: &str) -> Vec<Change> {
        changes(&objects(old).0, &objects(new).0, "shop")
    }

    #[test]
    fn content_counts_and_form_does_not() {
        let old = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  namespace: shop\ndata:\n  x: |\n    one\n    two\n";
        let new = "# Source: t\napiVersion: \"v1\"\nkind: ConfigMap\ndata: {x: \"one\\ntwo\\n\"}\nmetadata: {name: a, namespace: shop}\n";
        assert!(of(old, new).is_empty());
        let changed = of(old, &new.replace("two", "three"));
        assert_eq!((changed[0].what, &*changed[0].object), (What::Changed, "ConfigMap a"));
        assert!(changed[0].diff.contains("-    two\n+    three\n"), "{}", changed[0].diff);
    }

    #[test]
    fn objects_come_and_go_and_hooks_do_not_count() {
        let one = |name: &str| format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n");
        let hook = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: t, annotations: {helm.sh/hook: test}}\n";
        let changes = of(&(one("a") + &one("b")), &(one("b") + &one("c") + hook));
        let said: Vec<_> = changes.iter().map(|c| (c.what, c.object.as_str())).collect();
        assert_eq!(said, [(What::Removed, "Service a"), (What::Added, "Service c")]);
    }

    #[test]
    fn a_secrets_values_are_not_shown() {
        let secret = |a: &str| {
            format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata: {{a: {a}, b: c2FtZQ==}}\n")
        };
        let changes = of(&secret("b2xk"), &secret("bmV3"));
        let diff = &changes[0].diff;
        assert!(!diff.contains("b2xk") && !diff.contains("bmV3") && !diff.contains("c2FtZQ"), "{diff}");
        assert!(diff.contains("-  a: (hidden)\n+  a: (hidden, changed)\n"), "{diff}");
    }
}
