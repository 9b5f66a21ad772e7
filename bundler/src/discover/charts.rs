//! A chart's references: everything that it renders, in every way that the spec lists, and what the spec itself says.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::words::ends_with_image;
use super::{Class, Found, discover};
use crate::chart::Chart;
use crate::error::{Error, Result};
use crate::fetch;
use crate::helm::{Helm, Release};
use crate::postrender::PostRenderer;
use crate::spec::{ChartSpec, Variant};

/// A chart to look into.
pub struct Subject<'a> {
    /// What the spec says of it.
    pub spec: &'a ChartSpec,
    /// Its content.
    pub chart: &'a Chart,
    /// The packed chart in a file, for helm.
    pub packed: &'a Path,
    /// airlock, for helm.
    pub(crate) renderer: &'a PostRenderer,
    /// What to call it in messages.
    pub title: &'a str,
    /// Name of its release.
    pub release: &'a str,
    /// Directory that values files' paths start from.
    pub base: &'a Path,
}

/// Findings in a chart, and texts of its spec that match nothing there.
pub struct Told {
    /// The references.
    pub found: Vec<Found>,
    /// The manifests of each rendering.
    pub rendered: BTreeSet<String>,
    /// Every text that was found, before the spec had its say.
    pub known: BTreeSet<String>,
    /// Texts to be ignored that were not found.
    pub unused_ignore: Vec<String>,
    /// Texts that mean an image and stand nowhere.
    pub unused_map: Vec<String>,
}

impl Subject<'_> {
    /// Every reference in what it renders to, hooks, tests and CRDs included, in each way; in its annotations; and in the
    /// spec. One that stands at the same place in several renderings counts once.
    ///
    /// # Errors
    /// When helm fails, a rendering is not YAML, or a pod's image is to be ignored.
    pub async fn references(&self, helm: &Helm) -> Result<Told> {
        let (mut all, mut seen, mut rendered) = (Vec::new(), HashSet::new(), BTreeSet::new());
        let texts: BTreeSet<&str> = self.spec.map.iter().map(|meaning| meaning.text.as_str()).collect();
        let mut meant = BTreeSet::new();
        let plain = Variant { values: vec![], set: vec![], kube_version: None, api_versions: vec![] };
        for variant in [&plain].into_iter().chain(&self.spec.variants) {
            let manifests = self.render(helm, variant).await?;
            let reading = || format!("reading what chart {} renders", self.release);
            if !texts.is_empty() {
                meant.extend(super::meant(&manifests, &texts).map_err(|e| e.within(reading()))?);
            }
            for found in discover(&manifests).map_err(|e| e.within(reading()))? {
                if seen.insert(found.clone()) {
                    all.push(found);
                }
            }
            rendered.insert(manifests);
        }
        all.extend(self.annotated()?);
        let known: BTreeSet<String> = all.iter().map(|found| found.text.clone()).collect();
        let ignored =
            self.spec.ignore.iter().map(|ignore| &ignore.text).filter(|text| !known.contains(*text));
        let mapped = texts.iter().filter(|text| !meant.contains(*text) && !known.contains(**text));
        let unused_ignore = ignored.cloned().collect();
        let unused_map = mapped.map(|text| (*text).to_owned()).collect();
        Ok(Told { found: self.overridden(all)?, rendered, known, unused_ignore, unused_map })
    }

    async fn render(&self, helm: &Helm, variant: &Variant) -> Result<String> {
        let files = self.spec.values.iter().chain(&variant.values);
        let files: Vec<PathBuf> = files.map(|path| fetch::local(self.base, path)).collect::<Result<_>>()?;
        let set: Vec<String> = self.spec.set.iter().chain(&variant.set).cloned().collect();
        let mut arguments = vec!["--include-crds".to_owned()];
        if let Some(version) = variant.kube_version.as_ref().or(self.spec.kube_version.as_ref()) {
            arguments.extend(["--kube-version".into(), version.clone()]);
        }
        for version in self.spec.api_versions.iter().chain(&variant.api_versions) {
            arguments.extend(["--api-versions".into(), version.clone()]);
        }
        let release = Release {
            name: self.release,
            title: self.title,
            namespace: self.spec.namespace.as_deref(),
            chart: self.packed,
            values: &files,
            set: &set,
            skip_schema_validation: !self.chart.schema_needs().is_empty(),
        };
        Ok(helm.template(&release, self.renderer, &arguments).await?.text)
    }

    /// References in annotations that list images (`images`, `helm.sh/images`, `artifacthub.io/images`), of the chart and
    /// of each subchart, also one that is switched off.
    fn annotated(&self) -> Result<Vec<Found>> {
        let mut all = vec![];
        for part in &self.chart.parts {
            let mut annotations = part.annotations.clone();
            annotations.retain(|key, _| ends_with_image(key));
            if annotations.is_empty() {
                continue;
            }
            let metadata = serde_json::json!({"name": part.path, "annotations": annotations});
            // JSON is YAML.
            all.extend(discover(&serde_json::json!({"kind": "Chart", "metadata": metadata}).to_string())?);
        }
        Ok(all)
    }

    /// What the spec says of what was found, and adds.
    fn overridden(&self, mut all: Vec<Found>) -> Result<Vec<Found>> {
        let ChartSpec { ignore, map, add, .. } = self.spec;
        for ignored in ignore {
            let image = all.iter().find(|f| f.text == ignored.text && f.class == Class::Image);
            if let Some(image) = image {
                let why = format!("a pod has it: {}", image.place);
                return Err(Error::input(
                    format!("ignoring {} of chart {}", ignored.text, self.release),
                    why,
                )
                .hint("switch the pod off by the chart's values, or take the entry out of `ignore`"));
            }
        }
        all.retain(|found| ignore.iter().all(|ignored| ignored.text != found.text));
        all.retain(|found| map.iter().all(|meaning| meaning.text != found.text));
        let said = |reference: &crate::reference::Reference, place: &str| Found {
            release: None,
            text: reference.to_string(),
            reference: Some(reference.clone()),
            place: place.into(),
            variable: None,
            kind: super::place::Kind::Field,
            class: Class::Image,
            why: None,
        };
        all.extend(add.iter().map(|reference| said(reference, "bundle.toml add")));
        all.extend(map.iter().map(|meaning| said(&meaning.reference, "bundle.toml map")));
        for found in &mut all {
            found.release = Some(self.release.into());
        }
        Ok(all)
    }
}
