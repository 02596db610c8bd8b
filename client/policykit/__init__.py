"""Policy bundles as people write them: a folder of YAML made into the document that is signed,
and what a change of it means for those whom it is about (docs/policy.md)."""
