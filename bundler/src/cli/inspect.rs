//! `airlock inspect`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use bundler::bundle::Bundle;
use bundler::format::{self, Image};
use bundler::{Error, Result};

use super::printer::human;
use super::{Printer, Signed};

/// Arguments of `inspect`.
#[derive(clap::Args)]
pub struct Args {
    /// The bundle. Without a word on whose signature counts, what is shown is only what the file says of itself.
    bundle: PathBuf,
    #[command(flatten)]
    signed: Signed,
    /// Write its software bill of materials (SPDX) to stdout instead.
    #[arg(long, conflicts_with = "provenance")]
    sbom: bool,
    /// Write what it was made of (in-toto, SLSA provenance) to stdout instead.
    #[arg(long)]
    provenance: bool,
}

/// Writes one of the bundle's own statements, its digest checked.
fn statement(args: &Args, path: &str, printer: &Printer) -> Result<()> {
    let bundle = args.signed.open(&args.bundle, printer)?;
    let bytes = bundle.entry(path)?.ok_or_else(|| {
        Error::input(format!("looking for {path} in {}", args.bundle.display()), "it has none")
            .hint("an older airlock made it")
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    printer.document(&value, [text.as_ref()])
}

/// What belongs to an image, and to what of it: all of it, or one platform.
fn by_kind(image: &Image) -> BTreeMap<&str, Vec<String>> {
    let mut kinds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for attached in &image.attached {
        let platform = image.platforms.iter().find(|(_, digest)| **digest == attached.subject);
        let subject = match platform {
            _ if Some(attached.subject) == image.upstream => "all its platforms upstream".into(),
            _ if attached.subject == image.digest => "the image".into(),
            Some((platform, _)) => platform.to_string(),
            None => attached.subject.to_string(),
        };
        kinds.entry(&attached.kind).or_default().push(subject);
    }
    kinds.values_mut().for_each(|subjects| subjects.sort());
    kinds
}

pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    if args.sbom || args.provenance {
        return statement(args, if args.sbom { format::SBOM } else { format::PROVENANCE }, printer);
    }
    let is_checked = args.signed.is_checked()?;
    let (bundle, verified) = if is_checked {
        let bundle = args.signed.open(&args.bundle, printer)?;
        let signers = bundle.signers().to_vec();
        (bundle.into_bundle(), signers)
    } else {
        (Bundle::open(&args.bundle)?, Vec::new())
    };
    let (claims, size, manifest) = (bundle.signers(), bundle.size(), bundle.manifest());
    let value = serde_json::json!({
        "bundle": args.bundle.to_string_lossy(), "size": size, "signed_by": verified.first(), "signers": verified, "claims_key": claims.first(), "claims_keys": claims, "manifest": manifest,
    });
    printer.result(&value, || {
        let mut text = format!(
            "{} {}  serial {}, made {}, {}\n",
            manifest.name,
            manifest.version,
            manifest.serial,
            manifest.created,
            human(size)
        );
        if claims.is_empty() {
            text.push_str("NOT signed\n");
        }
        for id in &claims {
            let _ = match (verified.contains(id), is_checked) {
                (true, _) => writeln!(text, "signed by key {id}"),
                (false, false) => {
                    writeln!(text, "says it is signed by key {id}; NOT checked: give --key or --trust")
                }
                (false, true) => {
                    writeln!(text, "says it is signed by key {id}, which is none of those given")
                }
            };
        }
        for chart in &manifest.charts {
            let namespace = chart.namespace.as_deref().unwrap_or("default");
            let _ = writeln!(
                text,
                "chart  {} {}  release {}, namespace {namespace}",
                chart.name, chart.version, chart.release
            );
            for id in &chart.signed_by {
                let _ = writeln!(text, "         signed upstream by key {id}, as it was pinned");
            }
            for attached in &chart.attached {
                let _ = writeln!(text, "         has {}", attached.kind);
            }
        }
        for image in &manifest.images {
            let platforms: Vec<_> = image.platforms.keys().map(ToString::to_string).collect();
            let _ = writeln!(text, "image  {}@{}  {}", image.reference, image.digest, platforms.join(", "));
            if let Some(upstream) = &image.upstream {
                let _ = writeln!(text, "         some platforms of {upstream}, which is carried as evidence");
            }
            for id in &image.signed_by {
                let _ = writeln!(text, "         signed upstream by key {id}, as it was pinned");
            }
            for (kind, subjects) in by_kind(image) {
                let _ = writeln!(text, "         has {kind}, of {}", subjects.join(", "));
            }
        }
        for file in &manifest.files {
            let platform = file.platform.as_ref().map(|p| format!("  {p}")).unwrap_or_default();
            let _ = writeln!(text, "file   {} {}{platform}", file.name, file.digest);
        }
        text
    })
}
