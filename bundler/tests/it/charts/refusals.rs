//! Values that make no sense, and what is said of them.

use super::template;

const REFUSED: &[(&str, &str)] = &[
    // Misspelt, of the wrong type, out of range, not one of the words.
    ("replicas=3", "additional properties 'replicas' not allowed"),
    ("config.loglevel=debug", "additional properties 'loglevel' not allowed"),
    ("redis.persistance.enabled=true", "additional properties 'persistance' not allowed"),
    ("redis.auth.enabled=false", "additional properties 'enabled' not allowed"),
    ("replicaCount=-1", "at '/replicaCount': minimum: got -1, want 0"),
    ("replicaCount=two", "at '/replicaCount': got string, want integer"),
    ("service.port=0", "at '/service/port': minimum"),
    ("service.port=65536", "at '/service/port': maximum"),
    ("service.type=ExternalName", "at '/service/type': value must be one of"),
    ("image.pullPolicy=Sometimes", "at '/image/pullPolicy': value must be one of"),
    ("image.digest=sha256:abc", "at '/image/digest': 'sha256:abc' does not match pattern"),
    ("image.repository=https://docker.io/hello", "at '/image/repository'"),
    ("image.registry=docker.io/", "at '/image/registry'"),
    ("global.imageRegistry=https://mirror", "at '/global/imageRegistry'"),
    ("imagePullSecrets[0]=login", "at '/imagePullSecrets/0': got string, want object"),
    ("config.logFormat=xml", "at '/config/logFormat': value must be one of"),
    ("config.requestBudgetMs=0", "at '/config/requestBudgetMs': minimum"),
    ("config.redisKey=", "at '/config/redisKey': minLength"),
    ("resources.limits.memory=64", "at '/resources/limits/memory': got number, want string"),
    ("resources.limit.memory=64Mi", "additional properties 'limit' not allowed"),
    ("livenessProbe.httpGet.path=/", "additional properties 'httpGet' not allowed"),
    ("podSecurityContext.runAsNonRoot=false", "at '/podSecurityContext/runAsNonRoot': value must be true"),
    ("podSecurityContext.runAsUser=0", "at '/podSecurityContext/runAsUser': minimum"),
    ("podDisruptionBudget.maxUnavailable=101%", "at '/podDisruptionBudget/maxUnavailable'"),
    ("networkPolicy.from[0].namespace=web", "additional properties 'namespace' not allowed"),
    ("redis.image.tag=", "at '/image/tag': minLength"),
    ("redis.auth.password=short", "at '/auth/password'"),
    ("redis.auth.password=two words", "at '/auth/password'"),
    ("redis.auth.username=default", "at '/auth/username'"),
    ("redis.persistence.size=1G", "at '/persistence/size'"),
    ("redis.persistence.appendfsync=sometimes", "at '/persistence/appendfsync': value must be one of"),
    ("redis.maxmemory=64Mi", "at '/maxmemory'"),
    ("redis.tls.validityDays=0", "at '/tls/validityDays': minimum"),
    ("redis.enabled=maybe", "at '/redis/enabled': got string, want boolean"),
    ("externalRedis.host=redis://example.com", "at '/externalRedis/host'"),
    ("externalRedis.sentinel.nodes={example.com}", "at '/externalRedis/sentinel/nodes/0'"),
    // Half of what is needed.
    ("ingress.enabled=true", "at '/ingress/hosts': minItems: got 0, want 1"),
    ("gateway.enabled=true", "at '/gateway/parentRefs': minItems: got 0, want 1"),
    ("redis.tls.certManager.enabled=true", "at '/tls/certManager/issuerRef': missing property 'name'"),
    ("redis.auth.externalSecret.enabled=true", "at '/auth/externalSecret/storeRef': missing property 'name'"),
    (
        "redis.metrics.serviceMonitor.enabled=true",
        "needs redis.metrics.enabled: there is no exporter to scrape",
    ),
    ("redis.enabled=false", "externalRedis.host or externalRedis.sentinel.nodes is needed"),
    (
        "redis.enabled=false,externalRedis.sentinel.nodes={a:1}",
        "at '/externalRedis/sentinel/master': minLength",
    ),
    ("redis.enabled=false,externalRedis.host=r,externalRedis.username=u", "an ACL user has a password"),
    ("serviceAccount.create=false", "serviceAccount.name is needed"),
    // One contradicts the other.
    ("externalRedis.host=r", "externalRedis is set, but redis.enabled is true"),
    (
        "redis.enabled=false,externalRedis.host=r,externalRedis.sentinel.nodes={a:1},externalRedis.sentinel.master=m",
        "Sentinel names the host",
    ),
    (
        "redis.enabled=false,externalRedis.host=r,externalRedis.tls.caSecret=c",
        "externalRedis.tls.enabled is false",
    ),
    ("redis.auth.existingSecret=s,redis.auth.password=longenough", "the password has one source"),
    (
        "redis.tls.existingSecret=s,redis.tls.certManager.enabled=true,redis.tls.certManager.issuerRef.name=i",
        "the certificate has one source",
    ),
    ("autoscaling.enabled=true,autoscaling.minReplicas=20", "autoscaling.minReplicas (20) is above"),
    (
        "redis.maxmemory=100mb",
        "redis.maxmemory (100mb) is above half of redis.resources.limits.memory (192Mi)",
    ),
];

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn nonsense_is_refused_with_a_reason() {
    for (values, why) in REFUSED {
        let said = template(&["--set", values]).expect_err(values);
        assert!(said.contains(why), "{values}: {said}");
    }
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn contradictions_are_told_all_at_once() {
    let values =
        "redis.enabled=false,serviceAccount.create=false,autoscaling.enabled=true,autoscaling.minReplicas=20";
    let said = template(&["--set", values]).expect_err(values);
    assert_eq!(said.matches("\n- ").count(), 3, "{said}");
}
