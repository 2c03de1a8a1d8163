"""An audit made readable: one document as page, PDF, Markdown and in the terminal; figures, model card, signatures."""
