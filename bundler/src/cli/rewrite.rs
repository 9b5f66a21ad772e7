//! `airlock rewrite`: manifests through, references exchanged; a plain filter for GitOps, kustomize and kubectl.

use std::borrow::Cow;
use std::path::PathBuf;

use bundler::rewrite::{Change, Checked, Pin, Pins};
use bundler::{Error, Result};
use serde::Serializer;

use super::{AtSite, Printer, Signed, discover, lock};

/// Arguments of `rewrite`.
#[derive(clap::Args)]
pub struct Args {
    /// Rendered manifests; `-` for stdin.
    #[arg(value_name = "MANIFESTS", default_value = "-")]
    manifests: PathBuf,
    #[command(flatten)]
    at_site: AtSite,
    /// The pins; or take them from a bundle with --bundle.
    #[arg(long, value_name = "FILE", default_value = "images.lock", conflicts_with = "bundle")]
    lock_file: PathBuf,
    /// A Secret with the login for the site's registry: added to `imagePullSecrets` of every pod spec.
    #[arg(long, value_name = "NAME")]
    pull_secret: Option<String>,
    /// A bundle.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    signed: Signed,
}

#[derive(serde::Serialize)]
struct Output<'a> {
    #[serde(serialize_with = "in_one")]
    manifests: &'a [Cow<'a, str>],
    changes: &'a [Change],
}

/// As one text.
fn in_one<S: Serializer>(pieces: &[Cow<'_, str>], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&pieces.concat())
}

pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let mapping = args.at_site.mapping()?;
    let pins = pins(args, printer)?;
    let mut manifests = discover::read(&args.manifests)?;
    if let Some(secret) = &args.pull_secret {
        manifests = bundler::rewrite::with_pull_secret(&manifests, secret)?;
    }
    let Checked { pieces, changes } = bundler::rewrite::checked(&manifests, &pins, &mapping)?;
    printer.document(&Output { manifests: &pieces, changes: &changes }, pieces.iter().map(|piece| &**piece))
}

fn pins(args: &Args, printer: &Printer) -> Result<Pins> {
    if let Some(path) = &args.bundle {
        let bundle = args.signed.open(path, printer)?;
        return Ok(Pins::new(bundle.manifest().images.iter().map(Pin::from)));
    }
    let Some((lock, _)) = lock::read_lock(&args.lock_file)? else {
        return Err(Error::input(format!("reading {}", args.lock_file.display()), "there is no such file")
            .hint(
                "run `airlock lock` first, name another lock with --lock-file, or a bundle with --bundle",
            ));
    };
    Ok(Pins::new(lock.images))
}
