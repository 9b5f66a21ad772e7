//! `airlock rewrite`: manifests through, references exchanged; a plain filter for GitOps, kustomize and kubectl.

use std::path::PathBuf;

use bundler::rewrite::{Pin, Pins};
use bundler::{Error, Result};

use super::push::mapping;
use super::{Printer, discover, keys, lock};

/// Arguments of `rewrite`.
#[derive(clap::Args)]
pub struct Args {
    /// Rendered manifests; `-` for stdin.
    #[arg(value_name = "MANIFESTS", default_value = "-")]
    manifests: PathBuf,
    /// The site's registry, as the cluster's nodes reach it.
    #[arg(long, value_name = "REGISTRY[/PREFIX]")]
    registry: String,
    /// Leave the source's host out of the repositories' names.
    #[arg(long)]
    strip_host: bool,
    /// The pins; or take them from a bundle with --bundle.
    #[arg(long, value_name = "FILE", default_value = "images.lock", conflicts_with = "bundle")]
    lock_file: PathBuf,
    /// A Secret with the login for the site's registry: added to `imagePullSecrets` of every pod spec.
    #[arg(long, value_name = "NAME")]
    pull_secret: Option<String>,
    /// A bundle, whose signature is checked with --key.
    #[arg(long, value_name = "FILE", requires = "keys")]
    bundle: Option<PathBuf>,
    /// Public key (PEM) of who built the bundle; any of several.
    #[arg(long = "key", value_name = "FILE", env = "AIRLOCK_KEY")]
    keys: Vec<PathBuf>,
}

pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let mapping = mapping(&args.registry, args.strip_host)?;
    let pins = pins(args)?;
    let mut manifests = discover::read(&args.manifests)?;
    if let Some(secret) = &args.pull_secret {
        manifests = bundler::rewrite::with_pull_secret(&manifests, secret)?;
    }
    let (text, changes) = bundler::rewrite::checked(&manifests, &pins, &mapping)?;
    let value = serde_json::json!({"manifests": text, "changes": changes});
    printer.document(&value, || text)
}

fn pins(args: &Args) -> Result<Pins> {
    if let Some(path) = &args.bundle {
        let keys = args.keys.iter().map(|path| keys::read_public(path)).collect::<Result<_>>()?;
        let bundle = bundler::bundle::Bundle::open(path)?.verify(&bundler::verify::Trust::Keys(keys))?;
        return Ok(Pins::new(bundle.manifest().images.iter().map(Pin::from)));
    }
    let Some((lock, _)) = lock::read_lock(&args.lock_file)? else {
        return Err(Error::input(format!("reading {}", args.lock_file.display()), "there is no such file")
            .hint(
                "run `airlock lock` first, name another lock with --lock-file, or a bundle with --bundle",
            ));
    };
    let pin = |image: bundler::lock::LockedImage| Pin {
        reference: image.reference,
        digest: image.digest,
        meant_by: image.meant_by,
    };
    Ok(Pins::new(lock.images.into_iter().map(pin)))
}
