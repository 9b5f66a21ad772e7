//! `airlock keys generate`, and reading keys for the other verbs.

use std::path::{Path, PathBuf};

use bundler::sign::{self, PublicKey, SigningKey, password};
use bundler::{Error, Result, file};
use clap::Subcommand;

use super::Printer;

/// Arguments of `keys`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a key pair in cosign's format: NAME.key, encrypted, and NAME.pub.
    Generate {
        /// Where the files go.
        #[arg(long, value_name = "DIR", default_value = ".")]
        output_dir: PathBuf,
        /// Name of the files.
        #[arg(long, default_value = "airlock")]
        name: String,
        /// File with the password; AIRLOCK_PASSWORD, COSIGN_PASSWORD or a prompt otherwise.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
}

pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let Verb::Generate { output_dir, name, password_file } = &args.verb;
    let password = password::for_new_key(password_file.as_deref())?;
    let key = SigningKey::generate()?;
    let (private, public) = sign::write_key_pair(output_dir, name, &key, &password)?;
    let id = key.public_key().key_id();
    let value = serde_json::json!({
        "private_key": private.to_string_lossy(), "public_key": public.to_string_lossy(), "key_id": id,
    });
    printer.result(&value, || {
        format!(
            "{}  private, encrypted: keep it where bundles are built\n{}  public: give it to the sites, apart from the bundles\nkey id {id}\n",
            private.display(),
            public.display()
        )
    })
}

/// Public keys out of files.
pub fn public(paths: &[PathBuf]) -> Result<Vec<PublicKey>> {
    paths.iter().map(|path| PublicKey::read(path)).collect()
}

pub fn read_private(path: &Path, password_file: Option<&Path>) -> Result<SigningKey> {
    let reading = || format!("reading private key {}", path.display());
    let file = file::read(path, file::TEXT_CAP).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::input(reading(), e).hint("check the path, or make a key pair with `airlock keys generate`")
        }
        _ => Error::unreadable(reading(), e),
    })?;
    let mut is_open = false;
    let password = || {
        let password = password::for_existing_key(password_file)?;
        is_open = password.is_empty();
        Ok(password)
    };
    let key =
        SigningKey::from_pem(&String::from_utf8_lossy(&file), password).map_err(|e| e.within(reading()))?;
    if is_open {
        tracing::warn!(
            "private key {} has an empty password: its file is enough to sign with it",
            path.display()
        );
    }
    Ok(key)
}
