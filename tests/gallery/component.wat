;; A component, as the component tools make it of a plugin.
(component)
