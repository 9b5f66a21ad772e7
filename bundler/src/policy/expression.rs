//! The CEL expressions. What is here has been run by an API server: see `tests/it/cluster/policy.rs`.

/// `i`, an image as a pod spells it, as a key of the map: what Kubernetes' runtimes make of it (distribution's reference,
/// `ParseNormalizedNamed`), so `redis:8`, `docker.io/redis:8` and `index.docker.io/library/redis:8` are one. Each `map`
/// over a list of one is a step, since CEL here has no `let`.
pub const NORMALISED: &str = "[i]
  .map(i, !i.contains('@') ? (i.lastIndexOf(':') > i.lastIndexOf('/') ? i : i + ':latest') :
    [i.split('@', 2)].map(p, (p[0].lastIndexOf(':') > p[0].lastIndexOf('/')
      ? p[0].substring(0, p[0].lastIndexOf(':')) : p[0]) + '@' + p[1])[0])
  .map(i, i.matches('^([^/]*[.:A-Z][^/]*|localhost)/') ? i : 'docker.io/' + i)
  .map(i, i.startsWith('index.docker.io/') ? i.substring(6) : i)
  .map(i, i.matches('^docker[.]io/[^/]+$') ? 'docker.io/library/' + i.substring(10) : i)
  .map(i, i.replace('/', '..').replace(':', '.-').replace('@', '._'))[0]";

/// Lists of a pod that have images: path of the list in the pod's spec, and of the image in an item.
pub const LISTS: [(&str, &str); 4] = [
    ("containers", "image"),
    ("initContainers", "image"),
    ("ephemeralContainers", "image"),
    ("volumes", "image/reference"),
];

/// Images of a list of `pod` (`object` or `oldObject`), one for each item; empty where it has none. Without `string` they
/// are of no known type, and don't go into a map beside others.
pub fn images(pod: &str, list: &str, image: &str) -> String {
    let fields: String = image.split('/').map(|field| format!(".?{field}")).collect();
    format!("{pod}.spec.?{list}.orValue([]).map(c, string(c{fields}.orValue('')))")
}

/// Images that the pod had before: what is in use is neither rewritten, which would restart it, nor refused, which would
/// keep a pod from being cleaned up.
pub fn old() -> String {
    let lists: Vec<_> = LISTS.iter().map(|(list, image)| images("oldObject", list, image)).collect();
    format!("request.operation != 'UPDATE' ? [''] :\n  {}", lists.join(" +\n  "))
}

/// All images that are new, in no order.
pub fn new() -> String {
    let lists: Vec<_> = LISTS.iter().map(|(list, _)| format!("variables.{list}")).collect();
    format!("({}).filter(i, i != '' && !(i in variables.old))", lists.join(" + "))
}

/// New images that the map knows, with where they are.
pub fn known() -> String {
    format!(
        "variables.new.map(i, {{'from': i, 'key': {NORMALISED}}})\n  .filter(p, p.key in params.data)\n  \
         .map(p, {{'from': p.from, 'to': string(params.data[p.key])}})"
    )
}

/// Places in a list: CEL here can't count. More containers no pod has.
pub fn places() -> String {
    let numbers: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    format!("[{}]", numbers.join(", "))
}

/// The patch: a JSON patch, place by place. Applying a configuration instead would fail for pods that name an environment
/// variable or a port twice, which Kubernetes allows.
pub fn patch() -> String {
    let lists: Vec<_> = LISTS
        .iter()
        .map(|(list, image)| {
            format!(
                "variables.places.filter(n, n < size(variables.{list}) && variables.known.exists(p, p.from == variables.{list}[n]))\n  \
                 .map(n, JSONPatch{{op: 'replace', path: '/spec/{list}/' + string(n) + '/{image}',\n    \
                 value: variables.known.filter(p, p.from == variables.{list}[n])[0].to}})"
            )
        })
        .collect();
    lists.join(" +\n")
}

/// New images that are not below `site`, `REGISTRY[/PREFIX]/`.
pub fn outside(site: &str) -> String {
    format!("variables.new.filter(i, !i.startsWith('{site}'))")
}
