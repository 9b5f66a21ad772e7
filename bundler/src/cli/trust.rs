//! `airlock trust`.

use std::path::PathBuf;

use bundler::trust::{Policy, Signed};
use bundler::{Error, Result};
use clap::Subcommand;

use super::Printer;
use super::sign::Signing;

/// Arguments of `trust`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Read a policy, and show what it says.
    Show {
        /// The policy.
        policy: PathBuf,
    },
    /// Sign a new policy with a key of the one that it is to replace.
    Sign {
        /// The new policy; signatures are kept beside it.
        policy: PathBuf,
        #[command(flatten)]
        signing: Signing,
    },
    /// Put a new policy in the place of the site's, if enough of that one's keys have signed it, and it is newer.
    Update {
        /// The site's policy.
        policy: PathBuf,
        /// The new one.
        new: PathBuf,
    },
}

pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    match &args.verb {
        Verb::Show { policy } => show(&Policy::read(policy)?, printer),
        Verb::Sign { policy, signing } => {
            let signer = signing.signer()?.ok_or_else(|| {
                Error::input(format!("signing {}", policy.display()), "nobody is named")
                    .hint("--key FILE, or --signer COMMAND with --public-key FILE")
            })?;
            Signed::read(policy)?.add(&signer)?;
            printer.result(&serde_json::json!({"policy": policy.to_string_lossy()}), || {
                format!("{} has one more signature\n", policy.display())
            })
        }
        Verb::Update { policy, new } => show(&Signed::read(new)?.replace(policy)?, printer),
    }
}

fn show(policy: &Policy, printer: &Printer) -> Result<()> {
    let keys: Vec<_> = policy.keys().map(|(name, id)| serde_json::json!({"name": name, "id": id})).collect();
    let value = serde_json::json!({
        "serial": policy.serial(), "required": policy.required(), "bundles": policy.bundles(),
        "minimum_serial": policy.minimum_serial(), "keys": keys,
    });
    printer.result(&value, || {
        let names = if policy.bundles().is_empty() { "all".to_owned() } else { policy.bundles().join(", ") };
        let mut text = format!(
            "serial {}, bundles: {names}; {} of these keys must have signed:\n",
            policy.serial(),
            policy.required()
        );
        for (name, id) in policy.keys() {
            text += &format!("{id}  {name}\n");
        }
        for (name, serial) in policy.minimum_serial() {
            text += &format!("bundle {name}: serial {serial} or newer\n");
        }
        text
    })
}
