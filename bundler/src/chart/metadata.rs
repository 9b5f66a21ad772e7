//! `Chart.yaml`, with the fields that helm knows, and as the JSON that helm puts beside a packed chart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_saphyr::DuplicateKeyPolicy;

use super::ChartError;

/// The chart's metadata. Keys and their order are helm's; what is empty is left out, as by helm.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    #[serde(skip_serializing_if = "blank")]
    name: Option<String>,
    #[serde(skip_serializing_if = "blank")]
    home: Option<String>,
    #[serde(skip_serializing_if = "empty")]
    sources: Option<Vec<String>>,
    #[serde(skip_serializing_if = "blank")]
    version: Option<String>,
    #[serde(skip_serializing_if = "blank")]
    description: Option<String>,
    #[serde(skip_serializing_if = "empty")]
    keywords: Option<Vec<String>>,
    #[serde(skip_serializing_if = "empty")]
    maintainers: Option<Vec<Maintainer>>,
    #[serde(skip_serializing_if = "blank")]
    icon: Option<String>,
    #[serde(skip_serializing_if = "blank")]
    api_version: Option<String>,
    #[serde(skip_serializing_if = "blank")]
    condition: Option<String>,
    #[serde(skip_serializing_if = "blank")]
    tags: Option<String>,
    #[serde(skip_serializing_if = "blank")]
    app_version: Option<String>,
    #[serde(skip_serializing_if = "off")]
    deprecated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, Option<String>>>,
    #[serde(skip_serializing_if = "blank")]
    kube_version: Option<String>,
    #[serde(skip_serializing_if = "empty")]
    dependencies: Option<Vec<Dependency>>,
    #[serde(rename = "type", skip_serializing_if = "blank")]
    kind: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Maintainer {
    #[serde(skip_serializing_if = "blank")]
    name: Option<String>,
    #[serde(skip_serializing_if = "blank")]
    email: Option<String>,
    #[serde(skip_serializing_if = "blank")]
    url: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Dependency {
    name: String,
    #[serde(skip_serializing_if = "blank")]
    version: Option<String>,
    #[serde(default)]
    repository: String,
    #[serde(skip_serializing_if = "blank")]
    condition: Option<String>,
    #[serde(skip_serializing_if = "empty")]
    tags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "off")]
    enabled: Option<bool>,
    #[serde(skip_serializing_if = "empty")]
    import_values: Option<Vec<serde_json::Value>>,
    #[serde(skip_serializing_if = "blank")]
    alias: Option<String>,
}

impl Metadata {
    /// Reads `Chart.yaml`, and `requirements.yaml`, where charts of version 1 declare their dependencies.
    pub(super) fn parse(chart: &[u8], requirements: Option<&[u8]>) -> Result<Self, ChartError> {
        #[derive(Deserialize)]
        struct Requirements {
            dependencies: Option<Vec<Dependency>>,
        }
        let mut metadata: Self = yaml("Chart.yaml", chart)?;
        if blank(&metadata.api_version) {
            // Charts from before there were versions: helm takes them for version 1.
            metadata.api_version = Some("v1".into());
        }
        if let Some(text) = requirements {
            let requirements: Requirements = yaml("requirements.yaml", text)?;
            metadata.dependencies = requirements.dependencies.or(metadata.dependencies);
        }
        Ok(metadata)
    }

    /// The bytes that helm makes of it: Go's JSON writes these characters as escapes.
    pub(super) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let escapes = [
            ('<', "\\u003c"),
            ('>', "\\u003e"),
            ('&', "\\u0026"),
            ('\u{2028}', "\\u2028"),
            ('\u{2029}', "\\u2029"),
        ];
        let json = serde_json::to_string(self)?;
        Ok(escapes.iter().fold(json, |json, (plain, escape)| json.replace(*plain, escape)).into_bytes())
    }

    /// Whether it is a chart as helm 2 had them.
    pub(super) fn is_version_1(&self) -> bool {
        self.api_version.as_deref() == Some("v1")
    }

    /// The chart's name.
    pub(super) fn name(&self) -> Result<&str, ChartError> {
        required(&self.name, "name")
    }

    /// The chart's version.
    pub(super) fn version(&self) -> Result<&str, ChartError> {
        required(&self.version, "version")
    }

    /// Its annotations that have a text.
    pub(super) fn annotations(&self) -> BTreeMap<String, String> {
        let all = self.annotations.iter().flatten();
        all.filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect()
    }

    /// Names of the charts that must be in `charts/`, and the repositories that they come from.
    pub(super) fn dependencies(&self) -> impl Iterator<Item = (&str, &str)> {
        self.dependencies.iter().flatten().map(|d| (d.name.as_str(), d.repository.as_str()))
    }
}

fn yaml<T: serde::de::DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, ChartError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ChartError::NotText(file.into()))?;
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| match e.without_snippet() {
        serde_saphyr::Error::Budget { .. } => ChartError::TooComplex(file.into()),
        error => ChartError::Yaml(file.into(), error.to_string()),
    })
}

fn required<'a>(field: &'a Option<String>, name: &'static str) -> Result<&'a str, ChartError> {
    match field.as_deref() {
        None | Some("") => Err(ChartError::MissingField("Chart.yaml".into(), name)),
        Some(text) => Ok(text),
    }
}

fn blank(text: &Option<String>) -> bool {
    text.as_deref().is_none_or(str::is_empty)
}

fn empty<T>(list: &Option<Vec<T>>) -> bool {
    list.as_deref().is_none_or(<[T]>::is_empty)
}

fn off(switch: &Option<bool>) -> bool {
    *switch != Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_helms_keys_and_leaves_out_what_is_empty() {
        let yaml = "# a comment\nname: hello\nversion: 1.0.0\nappVersion: 1.10\nhome:\ndescription: ''\nkeywords: []\n\
                    unknown: 1\ndeprecated: false\ntype: application\nannotations: {a/b: 'c', n: 1}\n\
                    maintainers: [{name: A}]\nkubeVersion: '>=1.30'\n\
                    dependencies:\n- {name: redis, version: 1.x, import-values: [a, {child: b, parent: c}]}\n";
        let metadata = Metadata::parse(yaml.as_bytes(), None).expect("metadata");
        let json = metadata.to_json().expect("JSON");
        assert_eq!(
            String::from_utf8(json).expect("UTF-8"),
            r#"{"name":"hello","version":"1.0.0","maintainers":[{"name":"A"}],"apiVersion":"v1","appVersion":"1.10","annotations":{"a/b":"c","n":"1"},"kubeVersion":"\u003e=1.30","dependencies":[{"name":"redis","version":"1.x","repository":"","import-values":["a",{"child":"b","parent":"c"}]}],"type":"application"}"#
        );
    }

    #[test]
    fn old_charts_declare_dependencies_elsewhere() {
        let chart = b"name: x\nversion: 1.0.0\n";
        let metadata = Metadata::parse(chart, Some(b"dependencies:\n- name: a\n")).expect("metadata");
        assert_eq!(metadata.dependencies().collect::<Vec<_>>(), [("a", "")]);
        let error = Metadata::parse(chart, Some(b"\xff")).expect_err("not text").to_string();
        assert_eq!(error, "requirements.yaml is not UTF-8 text");
    }
}
