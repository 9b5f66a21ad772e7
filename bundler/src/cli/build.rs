//! `airlock build`.

use std::path::PathBuf;

use bundler::build::Choices;
use bundler::cache::ContentCache;
use bundler::file;
use bundler::origin::Sources;
use bundler::plan::plan;
use bundler::{Error, Result};

use super::printer::human;
use super::sign::Signing;
use super::{Network, Printer, lock};

/// Arguments of `build`.
#[derive(clap::Args)]
pub struct Args {
    /// What is wanted: the lock must have been made from it.
    #[arg(long, value_name = "FILE", default_value = "bundle.toml")]
    file: PathBuf,
    /// The pins.
    #[arg(long, value_name = "FILE", default_value = "images.lock")]
    lock_file: PathBuf,
    /// The bundle; NAME-VERSION.tar otherwise. A symbolic link there is refused, not followed. Until it is whole it is FILE.partial,
    /// with a journal beside it: when a build is stopped, or the network fails, the same command goes on from there.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    signing: Signing,
    /// Don't sign. Every later step refuses such a bundle unless told otherwise.
    #[arg(long, conflicts_with_all = ["key", "signer"])]
    unsigned: bool,
    /// Keep what registries send in the content cache (`$XDG_CACHE_HOME/airlock`, else `~/.cache/airlock`), for the next build:
    /// it takes the room of the images once more. Whatever the cache has is used anyway.
    #[arg(long)]
    keep_blobs: bool,
    /// Replace a file of that name, whatever it is. Otherwise it is replaced if it is an older bundle of the same name that nobody
    /// else signed; signatures of others on the same bundle are kept.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    network: Network,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    let spec = lock::read_spec(&args.file)?;
    let (lock, text) = lock::read_lock(&args.lock_file)?.ok_or_else(|| {
        Error::input(format!("reading {}", args.lock_file.display()), "there is no such file")
            .hint("run `airlock lock` first")
    })?;
    if lock.spec != spec.digest() {
        return Err(Error::input(
            format!("comparing {} with {}", args.lock_file.display(), args.file.display()),
            "the lock is stale: it was made from another bundle.toml",
        )
        .hint("run `airlock lock`, look at the difference, and build again"));
    }
    let signer = args.signing.signer()?;
    if signer.is_none() && !args.unsigned {
        return Err(Error::input("building a bundle", "nobody is named who signs it")
            .hint("--key FILE, or --signer COMMAND with --public-key FILE, or --unsigned"));
    }
    let output =
        args.output.clone().unwrap_or_else(|| format!("{}-{}.tar", lock.name, lock.bundle_version).into());
    // Even with --force: one of them may be the only copy of a key.
    let read = [args.file.as_path(), args.lock_file.as_path()];
    file::not_an_input(&output, args.signing.files().chain(read))?;
    let cache = ContentCache::of_user();
    let client = args.network.client()?;
    let sources = Sources { client: &client, cache: &cache, base: lock::base(&args.file) };
    let plan = plan(&lock, &text, &sources).await?;
    let choices = Choices { keeps_blobs: args.keep_blobs, replaces: args.force };
    let built =
        bundler::build::build(plan, signer.as_ref(), &sources, choices, &output, &printer.progress()).await?;
    if !built.kept.is_empty() {
        printer.note(&format!("kept the signatures of keys {}", built.kept.join(", ")));
    }
    if args.unsigned && built.kept.is_empty() {
        printer.warn("the bundle is not signed (--unsigned)");
    }
    if let Some(warning) = spec.helm_warning() {
        printer.warn(&warning);
    }
    let value = serde_json::json!({
        "bundle": output.to_string_lossy(), "size": built.size, "manifest_digest": built.manifest_digest, "signed": signer.is_some() || !built.kept.is_empty(), "resumed": built.resumed, "kept_signatures": built.kept,
    });
    printer.result(&value, || {
        format!(
            "{} {} ({} bytes), manifest {}\n",
            output.display(),
            human(built.size),
            built.size,
            built.manifest_digest
        )
    })
}
