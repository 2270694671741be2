"""A cluster on OpenStack: what it needs, what went wrong, what to do in which order.

`plan`, `findings` and `messages` decide and are pure; `cloud` (openstacksdk), `hands` (ssh) and
`files` perform. openstacksdk is imported only where a cloud is really spoken to.
"""
