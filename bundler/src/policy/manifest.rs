//! The manifests, the same bytes for the same bundle and options.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Action, Label, NAMESPACE, Settings, expression};

/// Name of the policies and bindings.
const NAME: &str = "airlock-site-images";
/// Label by which the binding finds the maps of all bundles at the site.
const MAP_LABEL: &str = "airlock.dev/kind: image-map";

/// What both policies look at: pods when they are made or changed, and containers that debuggers add later.
const MATCH: &str = "  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector:
      matchExpressions:
      - {key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system]}
    resourceRules:
    - apiGroups: [\"\"]
      apiVersions: [v1]
      operations: [CREATE, UPDATE]
      resources: [pods, pods/ephemeralcontainers]
  matchConditions:
  # The image in it for the API server of a static pod; no kubelet runs it because of this object.
  - name: no-mirror-pods
    expression: \"!('kubernetes.io/config.mirror' in object.metadata.?annotations.orValue({}))\"
";

/// All manifests; `title` names the bundle for people, `bundle` names its map.
pub fn write(title: &str, bundle: &str, map: &BTreeMap<String, String>, settings: &Settings) -> String {
    let mut text = format!("# Written by `airlock policy` for {title}.\n");
    if let Some(version) = settings.api.mutating {
        image_map(&mut text, bundle, map);
        mutating(&mut text, version, &settings.selector);
    }
    validating(&mut text, settings);
    text
}

fn image_map(text: &mut String, bundle: &str, map: &BTreeMap<String, String>) {
    let _ = write!(
        text,
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: airlock-images-{bundle}\n  namespace: {NAMESPACE}\n  \
         labels:\n    {MAP_LABEL}\ndata:\n"
    );
    for (key, value) in map {
        let _ = writeln!(text, "  \"{key}\": \"{value}\"");
    }
    text.push_str("---\n");
}

fn mutating(text: &mut String, version: &str, Label { key, value }: &Label) {
    let api = format!("apiVersion: admissionregistration.k8s.io/{version}");
    let _ = write!(
        text,
        "{api}\nkind: MutatingAdmissionPolicy\nmetadata:\n  name: {NAME}\nspec:\n  failurePolicy: Fail\n  \
         # Once more after webhooks that add containers.\n  reinvocationPolicy: IfNeeded\n  \
         paramKind: {{apiVersion: v1, kind: ConfigMap}}\n{MATCH}  variables:\n"
    );
    images(text);
    variable(text, "known", &expression::known());
    variable(text, "places", &expression::places());
    let _ = write!(
        text,
        "  mutations:\n  - patchType: JSONPatch\n    jsonPatch:\n      expression: |-\n{}",
        indented(&expression::patch(), 8)
    );
    let _ = write!(
        text,
        "---\n{api}\nkind: MutatingAdmissionPolicyBinding\nmetadata:\n  name: {NAME}\nspec:\n  policyName: {NAME}\n  \
         paramRef:\n    namespace: {NAMESPACE}\n    selector:\n      matchLabels:\n        {MAP_LABEL}\n    \
         parameterNotFoundAction: Deny\n{}---\n",
        namespaces(key, value)
    );
}

fn validating(text: &mut String, settings: &Settings) {
    let api = "apiVersion: admissionregistration.k8s.io/v1";
    let site = settings.mapping.under("");
    let site = format!("{}/{site}", settings.mapping.registry());
    let _ = write!(
        text,
        "{api}\nkind: ValidatingAdmissionPolicy\nmetadata:\n  name: {NAME}\nspec:\n  failurePolicy: Fail\n{MATCH}  variables:\n"
    );
    images(text);
    variable(text, "outside", &expression::outside(&site));
    let Label { key, value } = &settings.selector;
    let _ = write!(
        text,
        "  validations:\n  - expression: size(variables.outside) == 0\n    reason: Forbidden\n    messageExpression: |-\n{}",
        indented(
            &format!(
                "variables.outside.join(', ') + ': not at {site}, where this namespace takes its images from ({key}={value})'"
            ),
            6
        )
    );
    let actions = match settings.action {
        Action::Audit => "[Audit, Warn]",
        Action::Enforce => "[Deny]",
    };
    let _ = write!(
        text,
        "---\n{api}\nkind: ValidatingAdmissionPolicyBinding\nmetadata:\n  name: {NAME}\nspec:\n  policyName: {NAME}\n  \
         validationActions: {actions}\n{}",
        namespaces(key, value)
    );
}

/// Variables that both policies have.
fn images(text: &mut String) {
    for (list, image) in expression::LISTS {
        variable(text, list, &expression::images("object", list, image));
    }
    variable(text, "old", &expression::old());
    variable(text, "new", &expression::new());
}

fn variable(text: &mut String, name: &str, expression: &str) {
    let _ = write!(text, "  - name: {name}\n    expression: |-\n{}", indented(expression, 6));
}

fn indented(expression: &str, by: usize) -> String {
    expression.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

fn namespaces(key: &str, value: &str) -> String {
    format!("  matchResources:\n    namespaceSelector:\n      matchLabels:\n        {key}: \"{value}\"\n")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::{Api, SELECTOR};
    use super::*;
    use crate::reference::Mapping;

    fn documents(settings: &Settings) -> Vec<Value> {
        let map = BTreeMap::from([("docker.io..library..redis.-8".into(), "site:5000/a/b".into())]);
        let text = write("app 1.0", "app", &map, settings);
        text.split("---\n").map(|document| serde_saphyr::from_str(document).expect(document)).collect()
    }

    fn settings(mutating: Option<&'static str>, action: Action) -> Settings {
        let mapping = Mapping::new("site:5000/a", false).expect("a mapping");
        Settings {
            mapping,
            api: Api { mutating, asked: false },
            action,
            selector: SELECTOR.parse().expect("a label"),
        }
    }

    #[test]
    fn the_manifests_are_what_was_asked_for() {
        let kinds = |documents: &[Value]| {
            let kind = |d: &Value| {
                format!("{} {}", d["apiVersion"].as_str().unwrap_or(""), d["kind"].as_str().unwrap_or(""))
            };
            documents.iter().map(kind).collect::<Vec<_>>()
        };
        let api = "admissionregistration.k8s.io";
        let both = documents(&settings(Some("v1beta1"), Action::Enforce));
        let expected = [
            "v1 ConfigMap".into(),
            format!("{api}/v1beta1 MutatingAdmissionPolicy"),
            format!("{api}/v1beta1 MutatingAdmissionPolicyBinding"),
            format!("{api}/v1 ValidatingAdmissionPolicy"),
            format!("{api}/v1 ValidatingAdmissionPolicyBinding"),
        ];
        assert_eq!(kinds(&both), expected);
        assert_eq!(both[0]["data"]["docker.io..library..redis.-8"], "site:5000/a/b");
        assert_eq!(both[4]["spec"]["validationActions"][0], "Deny");
        for binding in [&both[2], &both[4]] {
            let labels = &binding["spec"]["matchResources"]["namespaceSelector"]["matchLabels"];
            assert_eq!(labels["airlock.dev/site-images"], "enforced");
        }
        for policy in [&both[1], &both[3]] {
            let expression = &policy["spec"]["matchConditions"][0]["expression"];
            assert!(expression.as_str().is_some_and(|text| text.contains("config.mirror")), "{policy}");
        }
        let half = documents(&settings(None, Action::Audit));
        assert_eq!(kinds(&half), expected[3..]);
        assert_eq!(half[1]["spec"]["validationActions"].to_string(), "[\"Audit\",\"Warn\"]");
        let outside = &half[0]["spec"]["variables"][6]["expression"];
        assert_eq!(outside, "variables.new.filter(i, !i.startsWith('site:5000/a/'))");
    }
}
