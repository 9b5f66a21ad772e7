//! Charts and values with mistakes: said to be the user's, with what to do.

use super::{POD, SITE, built, dry_run, with_chart};

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn mistakes_in_values_are_the_users() {
    let world = with_chart(&[("templates/a.yaml", POD)]);
    built(&world);
    world.write("bad.yaml", b"a: [\n");
    world.write("list.yaml", b"- a\n");
    let spec = std::fs::read_to_string(world.path("bundle.toml")).expect("a spec");
    for (file, says) in [
        ("missing.yaml", "missing.yaml: No such file"),
        ("bad.yaml", "bad.yaml"),
        ("list.yaml", "list.yaml"),
        ("/dev/zero", "it is not a regular file"),
    ] {
        let with = spec.replace("namespace = ", &format!("values = [\"{file}\"]\nnamespace = "));
        world.write("bundle.toml", with.as_bytes());
        world.run(&["lock"]).exits(1).says(says).says("hint: ");
        let run = dry_run(&world, &["--values", file]).exits(1);
        assert!(run.stderr.contains(file), "{}", run.stderr);
    }
    dry_run(&world, &["--set", "a[x]=1"]).exits(1).says("hint: ");
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn underscores_in_chart_names_are_taken() {
    let world = with_chart(&[("Chart.yaml", "apiVersion: v2\nname: my_app\nversion: 1.0.0\n")]);
    world.run(&["lock"]).exits(1).says("release \"my_app\"").says("hint: give the chart a `release`");
    let spec = std::fs::read_to_string(world.path("bundle.toml")).expect("a spec");
    world.write("bundle.toml", spec.replace("namespace = ", "release = \"app\"\nnamespace = ").as_bytes());
    built(&world);
    world.run(&["verify", "app.tar", "--key", "airlock.pub"]).exits(0);
    world.run(&["render", "app.tar", "--key", "airlock.pub", "--registry", SITE]).exits(0);
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn one_subchart_may_be_there_in_two_versions() {
    let world = with_chart(&[(
        "Chart.yaml",
        "apiVersion: v2\nname: app\nversion: 1.0.0\ndependencies:\n- {name: sub, version: 1.0.0, alias: one}\n\
         - {name: sub, version: 2.0.0, alias: two}\n",
    )]);
    for version in ["1.0.0", "2.0.0"] {
        let pod = POD.replace("{name: p}", "{name: '{{ .Chart.Name }}-{{ .Chart.Version }}'}");
        world.write("sub/Chart.yaml", format!("apiVersion: v2\nname: sub\nversion: {version}\n").as_bytes());
        world.write("sub/templates/a.yaml", pod.as_bytes());
        let packed = std::process::Command::new("helm")
            .args(["package", "sub", "--destination", "app/charts"])
            .current_dir(world.path(""))
            .output();
        assert!(packed.expect("helm").status.success());
    }
    built(&world);
    let run = dry_run(&world, &[]).exits(0);
    for name in ["one-1.0.0", "two-2.0.0"] {
        assert!(run.stdout.contains(name), "{name}: {}", run.stdout);
    }
}
