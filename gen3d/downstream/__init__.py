"""Tables in, tables out, without torch: what is made of maps and latents."""
