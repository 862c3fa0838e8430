"""Reports: one page on several runs, from what lies in their folders.

Only what looks at weights and data imports torch.
"""
