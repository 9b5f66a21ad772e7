//! `values.schema.json` that names other addresses.

use super::{Trap, built, dry_run, with_chart};

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn no_chart_makes_helm_send_requests() {
    let trap = Trap::new();
    let address = format!("http://{}/defs.json", trap.address());
    let schema = format!(r##"{{"properties": {{"a": {{"$ref": "{address}#/definitions/a"}}}}}}"##);
    let meta = format!(r#"{{"$schema": "{address}", "type": "object"}}"#);
    let sub = "apiVersion: v2\nname: sub\nversion: 1.0.0\n";
    let own = ("values.schema.json", schema.as_str());
    let file = ("values.schema.json", r#"{"$ref": "file:///etc/hostname"}"#);
    for (files, part) in [
        (vec![own], "app (http"),
        (vec![("values.schema.json", meta.as_str())], "app (http"),
        (vec![file], "app (file:///etc/hostname)"),
        (vec![("charts/sub/Chart.yaml", sub), ("charts/sub/values.schema.json", &schema)], "app/sub (http"),
    ] {
        let world = with_chart(&files);
        for verb in [&["lock"][..], &["discover", "--offline"]] {
            world.run(verb).exits(0).says("values.schema.json needs what is not in the chart").says(part);
        }
        world.build("app.tar");
        dry_run(&world, &["--set", "a=1"]).exits(0);
        trap.nobody_called();
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn schemas_without_addresses_are_checked() {
    let schema = r##"{"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": {"$ref": "#/definitions/a"}},
        "definitions": {"a": {"type": "integer"}}}"##;
    let world = with_chart(&[("values.schema.json", schema)]);
    built(&world);
    dry_run(&world, &["--set", "a=1"]).exits(0);
    dry_run(&world, &["--set", "a=x"]).exits(1).says("got string, want integer").says("hint: ");
    dry_run(&world, &["--set", "a=x", "--skip-schema-validation"]).exits(0);
}
