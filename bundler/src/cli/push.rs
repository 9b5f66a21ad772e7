//! `airlock push`.

use std::sync::Arc;

use bundler::Result;
use bundler::push::Pushed;

use super::printer::human;
use super::{Network, Printer, Trusted, mapping};

/// Arguments of `push`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    trusted: Trusted,
    /// The site's registry.
    #[arg(value_name = "REGISTRY[/PREFIX]")]
    registry: String,
    /// Leave the source's host out of the repositories' names; refused if two would collide.
    #[arg(long)]
    strip_host: bool,
    #[command(flatten)]
    network: Network,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    let mapping = mapping(&args.registry, args.strip_host)?;
    let bundle = Arc::new(args.trusted.open(printer)?);
    let pushed = bundler::push::push(&bundle, &args.network.client()?, &mapping, &printer.progress()).await?;
    printer.result(&pushed, || summary(&args.registry, &pushed))
}

/// What was pushed, in a line.
pub fn summary(registry: &str, pushed: &Pushed) -> String {
    let Pushed { items, unchanged, blobs_sent, bytes_sent } = pushed;
    let bytes = human(*bytes_sent);
    format!(
        "{registry} has {items} images, charts and files ({unchanged} unchanged); {blobs_sent} blobs sent, {bytes}\n"
    )
}
