//! Signals while helm is at work.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{POD, SITE, built, with_chart};
use crate::world::{Run, names};

/// helm that takes its time, and says which process it is.
const SLOW: &str = "#!/bin/sh\n[ \"$1\" = version ] && echo v4.2.4 && exit\necho $$ > PID.new\nmv PID.new PID\nsleep 60 & wait\n";

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_stopped_rendering_leaves_no_files_and_no_helm() {
    let world = with_chart(&[("templates/a.yaml", POD)]);
    built(&world);
    let (pid, helm) = (world.path("pid"), world.path("helm"));
    world.write("helm", SLOW.replace("PID", &pid.display().to_string()).as_bytes());
    std::fs::set_permissions(&helm, std::fs::Permissions::from_mode(0o755)).expect("executable");
    std::fs::create_dir(world.path("temporary")).expect("a directory");
    let helm = helm.to_str().expect("UTF-8");
    let bundle = ["app.tar", "--key", "airlock.pub", "--registry", SITE, "--helm", helm];
    for verb in [&["install", "--dry-run"][..], &["render"], &["lock"], &["discover", "--offline"]] {
        let rest = if matches!(verb[0], "install" | "render") { &bundle[..] } else { &bundle[5..] };
        for signal in ["-INT", "-TERM"] {
            let _ = std::fs::remove_file(&pid);
            let mut command = world.command(&[verb, rest].concat());
            command.env("TMPDIR", world.path("temporary")).stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = command.spawn().expect("airlock");
            let begun = Instant::now();
            while !pid.exists() {
                assert!(begun.elapsed() < Duration::from_secs(30), "helm was not begun");
                std::thread::sleep(Duration::from_millis(20));
            }
            let airlock = child.id().to_string();
            let killed = std::process::Command::new("kill").args([signal, &airlock]).status();
            assert!(killed.expect("kill").success());
            let run = Run::from(child.wait_with_output().expect("airlock"));
            let run = run.exits(if signal == "-INT" { 130 } else { 143 });
            assert!(
                run.stderr.contains(&format!("stopped by SIG{}", &signal[1..])),
                "{verb:?}: {}",
                run.stderr
            );
            assert_eq!(run.stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1);
            assert!(names(&world.path("temporary")).is_empty(), "{verb:?} left files");
            let helm = std::fs::read_to_string(&pid).expect("a process");
            let is_there = || std::path::Path::new("/proc").join(helm.trim()).join("exe").read_link().is_ok();
            let begun = Instant::now();
            while is_there() {
                assert!(begun.elapsed() < Duration::from_secs(5), "helm is still there");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
