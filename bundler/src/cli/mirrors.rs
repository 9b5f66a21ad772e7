//! `airlock mirrors`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bundler::mirrors::{self, Choices, Runtime, Settings, State};
use bundler::{Error, Result, file};
use clap::ValueEnum;

use super::{AtSite, Printer, Trusted};

/// Arguments of `mirrors`.
#[derive(clap::Args)]
pub struct Args {
    /// What pulls images on the nodes.
    #[arg(value_enum)]
    runtime: RuntimeArg,
    #[command(flatten)]
    trusted: Trusted,
    #[command(flatten)]
    at_site: AtSite,
    /// The registry is `airlock serve`, which also answers names without the source's host, as Docker asks for them.
    #[arg(long)]
    from_serve: bool,
    /// Certificate authority (PEM) of the registry, for the nodes to trust.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The registry has no TLS.
    #[arg(long)]
    plain_http: bool,
    /// Let nodes ask the source's own registry for what the site does not have. Otherwise nothing outside is asked.
    #[arg(long)]
    keep_upstream: bool,
    /// Write the files below this directory (`/` on a node itself); without it, print them.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Write over files that airlock did not write.
    #[arg(long, requires = "output")]
    force: bool,
    /// A containerd configuration to look at: fails if it would not read what is written.
    #[arg(long, value_name = "CONFIG.TOML")]
    check: Option<PathBuf>,
}

/// [`Runtime`], as the command line has it.
#[derive(Clone, Copy, ValueEnum)]
enum RuntimeArg {
    /// containerd 1.6 or newer: certs.d/HOST/hosts.toml.
    Containerd,
    /// k3s: registries.yaml.
    K3s,
    /// RKE2: registries.yaml.
    Rke2,
    /// CRI-O, podman: registries.conf.d.
    Crio,
    /// Docker's engine: daemon.json; for Docker Hub's images only.
    Docker,
}

pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let runtime = match args.runtime {
        RuntimeArg::Containerd => Runtime::Containerd,
        RuntimeArg::K3s => Runtime::K3s,
        RuntimeArg::Rke2 => Runtime::Rke2,
        RuntimeArg::Crio => Runtime::Crio,
        RuntimeArg::Docker => Runtime::Docker,
    };
    if args.check.is_some() && runtime != Runtime::Containerd {
        return Err(Error::input("reading --check", "it looks at containerd's configuration")
            .hint("use it with `airlock mirrors containerd`"));
    }
    let mapping = args.at_site.mapping()?;
    let read = |path: &PathBuf| {
        file::read_text(path).map_err(|e| Error::input(format!("reading {}", path.display()), e))
    };
    let ca = args.ca.as_ref().map(read).transpose()?;
    let choices = Choices {
        plain_http: args.plain_http,
        keep_upstream: args.keep_upstream,
        from_serve: args.from_serve,
    };
    let bundle = args.trusted.open(printer)?;
    let config = mirrors::configure(runtime, &Settings::new(&bundle, mapping, ca, choices)?)?;
    let output = args.output.as_deref().filter(|path| *path != Path::new("-"));
    let states = output.map(|root| mirrors::write(root, &config.files, args.force)).transpose()?;
    let value = serde_json::json!({
        "runtime": runtime, "files": config.files, "states": states, "notes": config.notes,
    });
    let mut text = String::new();
    for (n, file) in config.files.iter().enumerate() {
        let _ = match (output, &states) {
            (Some(root), Some(states)) => {
                writeln!(text, "{:9} {}", said(states[n]), root.join(&file.path).display())
            }
            _ => {
                write!(text, "{}==> /{} <==\n{}", if n > 0 { "\n" } else { "" }, file.path, file.content)
            }
        };
    }
    printer.document(&value, [&*text])?;
    config.notes.iter().for_each(|note| printer.note(&format!("- {note}")));
    match &args.check {
        Some(path) => check(path, &read(path)?, printer),
        None => Ok(()),
    }
}

fn said(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::Replaced => "replaced",
        State::Unchanged => "unchanged",
    }
}

fn check(path: &Path, text: &str, printer: &Printer) -> Result<()> {
    let verdict = mirrors::check_containerd(text, "/etc/containerd/certs.d")?;
    let (path, why) = (path.display(), verdict.why);
    if !verdict.reads_certs_d {
        let refused = Error::input(format!("checking {path}"), "it does not make containerd read certs.d");
        return Err(refused.hint(why));
    }
    printer.note(&format!("- {path}: {why}"));
    Ok(())
}
